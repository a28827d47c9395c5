import { createRequire } from 'node:module';
const require = createRequire(import.meta.url);
const { DBOS, DBOSClient } = require('@dbos-inc/dbos-sdk');
const Q = 'bench', T = 'noop';
const PROFILES = {
  drain: { q: { workerConcurrency: 500, minPollingIntervalMs: 10 }, pool: 20 },
  latency: { q: { workerConcurrency: 50, minPollingIntervalMs: 10 }, pool: 10 },
};
const quiet = { info() {}, debug() {}, warn() {}, error() {}, child() { return quiet; } };
export default {
  name: 'dbos', version: '5.3.0',
  async setup(url) {
    const c = await DBOSClient.create({ systemDatabaseUrl: url, logger: quiet, applicationName: 'bench' });
    // system schema is created by a DBOS launch
    DBOS.setConfig({ name: 'bench', systemDatabaseUrl: url, logger: quiet, executorID: 'setup', applicationVersion: '1' });
    await DBOS.launch(); await DBOS.shutdown(); await c.destroy();
  },
  async producer(url, n) {
    const c = await DBOSClient.create({ systemDatabaseUrl: url, systemDatabasePoolSize: n, logger: quiet, applicationName: 'bench' });
    return { one: async p => (await c.enqueue({ workflowName: T, queueName: Q, appVersion: '1' }, p)).workflowID, many: null, close: () => c.destroy() };
  },
  async remaining(c) { return (await c.query(`select 1 from dbos.workflow_status where status in ('ENQUEUED','PENDING') limit 1`)).rowCount; },
  async startWorker(url, profile, handler) {
    const P = PROFILES[profile];
    const wf = async p => { await handler(p, { signal: undefined, poll: () => DBOS.runStep(async () => 1, { name: 's' }), beat: async () => {} }); };
    DBOS.setConfig({ name: 'bench', systemDatabaseUrl: url, systemDatabasePoolSize: P.pool, logger: quiet, executorID: String(process.pid), applicationVersion: '1' });
    DBOS.registerWorkflow(wf, { name: T });
    await DBOS.launch();
    await DBOS.registerQueue(Q, { ...P.q, onConflict: 'always_update' });
    return { stop: () => DBOS.shutdown() };
  },
};
