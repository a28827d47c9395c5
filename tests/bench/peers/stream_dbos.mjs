// DBOS durable stream: each request starts a workflow that reads the model and DBOS.writeStream()s every FLUSH_MS worth
// of tokens as one value; the answer follows DBOS.readStream():
//   node stream_dbos.mjs PORT MODEL_PORT SCRIPT PGURL FLUSH_MS
import { createRequire } from 'node:module';
import http from 'node:http';
import { model } from './model.mjs';
const require = createRequire(import.meta.url);
const { DBOS } = require('@dbos-inc/dbos-sdk');
const [, , PORT, MODEL, SCRIPT, URL_, FLUSH] = process.argv;
const quiet = { info() {}, debug() {}, warn() {}, error(...a) { console.error('E', String(a[0]).slice(0, 200)); }, child() { return quiet; } };
const chat = DBOS.registerWorkflow(async () => {
  await DBOS.runStep(async () => { // tokens are written from inside one step (the durable unit is the turn)
    let q = [], done = false, wake;
    const p = model(+MODEL, SCRIPT, t => { q.push(t); wake?.(); }).then(() => { done = true; wake?.(); });
    while (!done || q.length) {
      if (!q.length) { await new Promise(r => { wake = r; }); wake = null; continue; }
      await new Promise(r => setTimeout(r, +FLUSH)); const b = q; q = []; await DBOS.writeStream('tok', b);
    }
    await p;
  }, { name: 'gen' });
  await DBOS.closeStream('tok');
}, { name: 'chat' });
DBOS.setConfig({ name: 'bench', systemDatabaseUrl: URL_, systemDatabasePoolSize: 30, logger: quiet, executorID: 's', applicationVersion: '1' });
await DBOS.launch();
http.createServer(async (rq, rs) => {
  rq.resume(); rs.writeHead(200, { 'content-type': 'text/event-stream' });
  try {
    const h = await DBOS.startWorkflow(chat)();
    for await (const v of DBOS.readStream(h.workflowID, 'tok')) for (const t of v) rs.write('data: ' + JSON.stringify({ type: 'text-delta', id: 'm1', delta: t }) + '\n\n');
  } catch (e) { console.error(e.message); }
  rs.end();
}).listen(+PORT, '127.0.0.1', () => console.log('up'));
