import { createRequire } from 'node:module';
const require = createRequire(import.meta.url);
const { Queue, Worker, createPostgresBackend, runMigrations } = require('bullmq');
import pg from 'pg';
const Q = 'bench';
const PROFILES = {
  drain: { w: { concurrency: 50, removeOnComplete: { count: 0 } }, pool: 20 },
  latency: { w: { concurrency: 8, removeOnComplete: { count: 0 } }, pool: 10 },
};
export default {
  name: 'bullmq-pg', version: '6.7.0',
  async setup(url) { const c = new pg.Client({ connectionString: url }); await c.connect(); await runMigrations(c); await c.end(); },
  async producer(url, n) {
    const q = new Queue(Q, { connection: { connectionString: url, max: n } }, createPostgresBackend); q.on('error', () => {}); await q.waitUntilReady();
    return {
      one: async p => (await q.add('noop', p, { removeOnComplete: true })).id,
      many: ps => q.addBulk(ps.map(data => ({ name: 'noop', data, opts: { removeOnComplete: true } }))),
      close: () => q.close(),
    };
  },
  async remaining(c, url) {
    const r = await c.query("select 1 from bullmq.job where state not in ('completed','failed') limit 1"); return r.rowCount;
  },
  async startWorker(url, profile, handler) {
    const P = PROFILES[profile];
    const w = new Worker(Q, async (job, token, signal) => { await handler(job.data, { signal }); }, { connection: { connectionString: url, max: P.pool }, ...P.w }, createPostgresBackend);
    w.on('error', () => {}); await w.waitUntilReady();
    return { stop: () => w.close(true) };
  },
};
