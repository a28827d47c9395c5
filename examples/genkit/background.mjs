// Genkit's own client against Nocturne: submit, close, open again, wait, abort.
//   nocturne dev --agents examples/agents        then        npm install && node background.mjs
import { remoteAgent } from 'genkit/beta/client';

const url = process.env.AGENT_URL ?? 'http://127.0.0.1:8700/genkit/librarian';
const text = process.env.TEXT ?? 'Who kept the lighthouse in 1953?';
const { snapshotId } = await remoteAgent({ url }).chat().detach(text); // the connection is closed
const chat = await remoteAgent({ url }).loadChat({ snapshotId }); // another client, any time later
console.log('meanwhile:', (await remoteAgent({ url }).getSnapshot(snapshotId)).status);
const post = (verb) => fetch(`${url}/${verb}`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ data: { snapshotId } }) });
const done = (await (await post('waitForSnapshot')).json()).result; // or poll, as task.wait() does
console.log(`${done.status}:`, done.state.messages.at(-1).content.map((p) => p.text ?? '').join(''));
const task = await remoteAgent({ url }).chat({ sessionId: chat.sessionId }).detach('Go on.');
console.log('abort found it', await task.abort(), '- now it is', (await task.wait()).status);
