// Genkit's express server with a streaming flow fed by the model simulator, InMemoryStreamManager on:
//   node stream_genkit.mjs PORT MODEL_PORT SCRIPT
import { genkit, z, InMemoryStreamManager } from 'genkit/beta';
import { expressHandler } from '@genkit-ai/express';
import express from 'express';
import { model } from './model.mjs';
const [, , PORT, MODEL, SCRIPT] = process.argv;
const ai = genkit({});
const chat = ai.defineFlow({ name: 'chat', inputSchema: z.any(), streamSchema: z.any(), outputSchema: z.any() }, async (input, { sendChunk }) => {
  let n = 0;
  await model(+MODEL, SCRIPT, text => { n++; sendChunk({ type: 'text-delta', id: 'm1', delta: text }); });
  return { n };
});
const app = express(); app.use(express.json());
app.post('/chat', expressHandler(chat, { streamManager: new InMemoryStreamManager() }));
app.listen(+PORT, '127.0.0.1', () => console.log('up'));
