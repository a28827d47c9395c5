import { run, runMigrations, makeWorkerUtils, Logger } from 'graphile-worker';
import pg from 'pg';
const logger = new Logger(() => () => {});
const T = 'noop';
const PROFILES = {
  // https://worker.graphile.org/docs/performance: localQueue + batched completion
  drain: { concurrentJobs: 24, maxPoolSize: 10, pollInterval: 2000, localQueue: { size: 2000 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 },
  latency: { concurrentJobs: 8, maxPoolSize: 10, pollInterval: 2000 },
};
export default {
  name: 'graphile-worker', version: '0.18.0',
  async setup(url) { await runMigrations({ connectionString: url, logger }); },
  async producer(url, n) {
    const pool = new pg.Pool({ connectionString: url, max: n }); pool.on('error', () => {});
    const u = await makeWorkerUtils({ pgPool: pool, logger });
    return {
      one: async p => (await u.addJob(T, p)).id,
      many: ps => u.addJobs(ps.map(payload => ({ identifier: T, payload }))),
      close: async () => { await u.release(); await pool.end(); },
    };
  },
  async remaining(c) { return (await c.query('select 1 from graphile_worker._private_jobs limit 1')).rowCount; },
  async startWorker(url, profile, handler) {
    const r = await run({ logger, noHandleSignals: true, preset: { worker: { connectionString: url, ...PROFILES[profile] } },
      taskList: { [T]: (p, h) => handler(p, { signal: h.abortSignal }) } });
    return { stop: () => r.stop() };
  },
};
