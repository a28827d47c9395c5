import { PgBoss } from 'pg-boss';
const Q = 'bench';
const PROFILES = {
  drain: { work: { batchSize: 2000, localConcurrency: 1, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 }, boss: { max: 10 } },
  latency: { work: { batchSize: 1, localConcurrency: 8 }, boss: { max: 10, useListenNotify: true } },
};
const quiet = b => { b.on('error', () => {}); b.on('warning', () => {}); return b; };
export default {
  name: 'pg-boss', version: '12.38.0',
  async setup(url) {
    const b = quiet(new PgBoss({ connectionString: url, supervise: false, schedule: false })); await b.start();
    await b.createQueue(Q, { notify: true, retryLimit: 5 });
    await b.stop({ graceful: false });
  },
  async producer(url, n) {
    const b = quiet(new PgBoss({ connectionString: url, max: n, supervise: false, schedule: false })); await b.start();
    return {
      one: p => b.send(Q, p),
      many: ps => b.insert(Q, ps.map(data => ({ data }))),
      close: () => b.stop({ graceful: false }),
    };
  },
  async remaining(c) { return (await c.query("select 1 from pgboss.job where state < 'completed' limit 1")).rowCount; },
  async startWorker(url, profile, handler) {
    const P = PROFILES[profile];
    const b = quiet(new PgBoss({ connectionString: url, ...P.boss })); await b.start();
    await b.work(Q, { ...P.work }, async jobs => { await Promise.all(jobs.map(j => handler(j.data, { signal: j.signal }))); });
    return { stop: () => b.stop({ graceful: false }) };
  },
};
