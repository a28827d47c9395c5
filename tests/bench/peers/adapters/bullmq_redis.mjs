import { createRequire } from 'node:module';
const require = createRequire(import.meta.url);
const { Queue, Worker } = require('bullmq');
// It is emptied before every phase: a Redis of its own, as ../../peers.py starts one.
const rc = () => { const u = new URL(process.env.REDIS_URL); return { host: u.hostname, port: +u.port, maxRetriesPerRequest: null }; };
const IORedis = require('ioredis');
const Q = 'bench';
const PROFILES = {
  drain: { w: { concurrency: 100, removeOnComplete: { count: 0 } }, pool: 20 },
  latency: { w: { concurrency: 8, removeOnComplete: { count: 0 } }, pool: 10 },
};
export default {
  name: 'bullmq-redis', version: '6.7.0',
  async setup() { const r = new IORedis(rc()); await r.flushall(); await r.quit(); },
  async producer(url, n) {
    const q = new Queue(Q, { connection: rc() }); q.on('error', () => {}); await q.waitUntilReady();
    return {
      one: async p => (await q.add('noop', p, { removeOnComplete: true })).id,
      many: ps => q.addBulk(ps.map(data => ({ name: 'noop', data, opts: { removeOnComplete: true } }))),
      close: () => q.close(),
    };
  },
  async remaining() {
    this._q ??= new Queue(Q, { connection: rc() }); const c = await this._q.getJobCounts('wait', 'active', 'delayed', 'prioritized');
    return c.wait + c.active + c.delayed + c.prioritized;
  },
  async startWorker(url, profile, handler) {
    const P = PROFILES[profile];
    const w = new Worker(Q, async (job, token, signal) => { await handler(job.data, { signal }); }, { connection: rc(), ...P.w });
    w.on('error', () => {}); await w.waitUntilReady();
    return { stop: () => w.close(true) };
  },
};
