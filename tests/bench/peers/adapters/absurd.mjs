import { Absurd } from 'absurd-sdk';
import pg from 'pg';
import fs from 'node:fs';
const Q = 'bench', T = 'noop';
const log = { log() {}, info() {}, warn() {}, error() {} };
const PROFILES = {
  drain: { w: { concurrency: 200, batchSize: 200, pollInterval: 0.01 }, pool: 50 },
  latency: { w: { concurrency: 8, pollInterval: 0.01 }, pool: 10 },
};
const SQL = process.env.ABSURD_SQL; // the schema is not in its npm package
export default {
  name: 'absurd', version: '0.5.0',
  async setup(url) {
    const c = new pg.Client({ connectionString: url }); await c.connect();
    await c.query(fs.readFileSync(SQL, 'utf8')); await c.query('select absurd.create_queue($1)', [Q]); await c.end();
  },
  async producer(url, n) {
    const pool = new pg.Pool({ connectionString: url, max: n }); pool.on('error', () => {});
    const a = new Absurd({ db: pool, queueName: Q, log });
    return { one: async p => (await a.spawn(T, p, { queue: Q })).taskID, many: null, close: () => pool.end() };
  },
  async remaining(c) { return (await c.query(`select 1 from absurd.t_${Q} where state not in ('completed','failed','cancelled') limit 1`)).rowCount; },
  async startWorker(url, profile, handler) {
    const P = PROFILES[profile];
    const pool = new pg.Pool({ connectionString: url, max: P.pool }); pool.on('error', () => {});
    const a = new Absurd({ db: pool, queueName: Q, log });
    a.registerTask({ name: T, defaultMaxAttempts: 10 }, async (p, ctx) => { await handler(p, { beat: () => ctx.heartbeat(), poll: () => ctx.heartbeat() }); return null; });
    await a.startWorker({ ...P.w });
    return { stop: async () => { await a.close(); await pool.end(); } };
  },
};
