// One phase of one peer, one JSON line:
//   node bench.mjs PEER --url postgres://... --phase enqueue|bulk|drain|latency [--jobs N] [--secs S]
// Makes and drops its own database. See README.md; ../run starts this.
import { fork } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { now, sleep, pgMeter, diff, pct, freshDb, dropDb, payload, procCpu, procRss } from './common.mjs';
const here = path.dirname(fileURLToPath(import.meta.url));
const args = process.argv.slice(2);
const opt = (k, d) => { const i = args.indexOf('--' + k); return i >= 0 ? args[i + 1] : d; };
const peer = args[0];
const base = opt('url');
const phase = opt('phase');
const JOBS = +opt('jobs', 20000);
const A = (await import(`./adapters/${peer}.mjs`)).default;
const db = 'peer_' + peer;
let url, mon, meter;
async function reset() {
  url = await freshDb(base, db);
  await A.setup(url);
  mon = new pg.Client({ connectionString: url }); mon.on('error', () => {}); await mon.connect();
  meter = await pgMeter(mon);
}
function spawnWorker(profile, mode) {
  const p = fork(path.join(here, 'worker.mjs'), [peer, url, profile, mode], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  const w = { p, pid: p.pid, n: 0, ev: [], waiters: [] };
  p.on('message', m => {
    if (m.t === 'count') { w.n = m.n; return; }
    w.ev.push(m);
    w.waiters = w.waiters.filter(x => !x(m));
  });
  w.wait = (t, ms = 60000) => new Promise((res, rej) => {
    const e = w.ev.find(m => m.t === t); if (e) return res(e);
    const to = setTimeout(() => rej(new Error('timeout ' + t)), ms);
    w.waiters.push(m => { if (m.t === t) { clearTimeout(to); res(m); return true; } });
  });
  w.send = m => { try { p.send(m); } catch {} };
  w.exit = new Promise(r => p.on('exit', r));
  w.stop = async () => { w.send('stop'); await Promise.race([w.exit, sleep(6000)]); try { p.kill('SIGKILL'); } catch {} };
  return w;
}
async function fill(n) {
  const pr = await A.producer(url, 16);
  let i = 0;
  if (pr.many) { while (i < n) { const k = Math.min(1000, n - i); await pr.many(Array.from({ length: k }, (_, j) => payload(i + j))); i += k; } }
  else await Promise.all(Array.from({ length: 16 }, async () => { while (i < n) await pr.one(payload(i++)); }));
  await pr.close();
}
// first handler start -> last completion visible in the database
async function drain() {
  await reset(); await fill(JOBS);
  await mon.query('analyze'); await mon.query('checkpoint');
  const w = spawnWorker('drain', 'noop');
  await w.wait('ready');
  const c0 = procCpu(w.pid).cpu, m0 = await meter.snap();
  w.send('go');
  const deadline = now() + 120000;
  while (now() < deadline) {
    await sleep(10);
    if (w.n >= JOBS && (await A.remaining(mon, url)) === 0) break;
    if (w.p.exitCode !== null) throw new Error('the worker died');
  }
  const t1 = now(), m1 = await meter.snap();
  if (w.n < JOBS) throw new Error(`only ${w.n} of ${JOBS} jobs ran`);
  const first = w.ev.find(e => e.t === 'first').at;
  const cpu = procCpu(w.pid).cpu - c0, rss = procRss(w.pid);
  await w.stop();
  return { jobs: JOBS, per_s: +(JOBS / ((t1 - first) / 1000)).toFixed(1), worker_cpu_s_per_1k: +((cpu / JOBS) * 1000).toFixed(4), ...diff(m0, m1, JOBS), ...await meter.images(m0, m1, JOBS), ...rss };
}
async function enqueue() {
  await reset();
  const pr = await A.producer(url, 16);
  for (let i = 0; i < 500; i++) await pr.one(payload(i)); // warm: then statistics as autovacuum would leave them
  await mon.query('analyze');
  const m0 = await meter.snap();
  let i = 0;
  await Promise.all(Array.from({ length: 16 }, async () => { while (i < JOBS) await pr.one(payload(i++)); }));
  const m1 = await meter.snap();
  await pr.close();
  return { jobs: JOBS, per_s: +(JOBS / ((m1.t - m0.t) / 1000)).toFixed(1), ...diff(m0, m1, JOBS) };
}
async function bulk() {
  await reset();
  const pr = await A.producer(url, 16), B = 1000;
  if (!pr.many) throw new Error('it has no bulk insert');
  await pr.many(Array.from({ length: B }, (_, j) => payload(j)));
  await mon.query('analyze');
  const m0 = await meter.snap();
  for (let i = 0; i < JOBS; i += B) await pr.many(Array.from({ length: B }, (_, j) => payload(i + j)));
  const m1 = await meter.snap();
  await pr.close();
  return { jobs: JOBS, per_s: +(JOBS / ((m1.t - m0.t) / 1000)).toFixed(1), ...diff(m0, m1, JOBS) };
}
// before the enqueue call -> the handler's first line, in another process
async function latency(secs, rate = 20) {
  await reset();
  const w = spawnWorker('latency', 'lat'); await w.wait('ready'); w.send('go'); await w.wait('up'); await sleep(500);
  const pr = await A.producer(url, 4);
  for (let i = 0; i < 20; i++) { await pr.one({ ...payload(i), t0: now() }); await sleep(50); }
  await sleep(500);
  w.send('dump'); const warm = (await w.wait('lat')).lat.length; w.ev = [];
  const n = secs * rate, start = now(), pend = [], m0 = await meter.snap();
  for (let i = 0; i < n; i++) {
    const d = start + i * (1000 / rate) - now(); if (d > 0) await sleep(d);
    pend.push(pr.one({ ...payload(i), t0: now() }));
  }
  await Promise.all(pend);
  const dl = now() + 15000; while (w.n < n + warm && now() < dl) await sleep(50);
  const m1 = await meter.snap();
  w.send('dump'); const l = (await w.wait('lat')).lat.slice(warm);
  await pr.close(); await w.stop();
  if (l.length < n) throw new Error(`only ${l.length} of ${n} jobs ran`);
  return { rate, n: l.length, p50: pct(l, 50), p90: pct(l, 90), p99: pct(l, 99), max: pct(l, 100), ...diff(m0, m1, n) };
}
let status = 0;
try {
  const out = await { enqueue, bulk, drain, latency: () => latency(+opt('secs', 10)) }[phase]();
  console.log(JSON.stringify({ version: A.version, node: process.version, ...out }));
} catch (e) { console.error(`${peer} ${phase}: ${e.message}`); status = 1; }
try { await mon?.end(); await dropDb(base, db); } catch {}
process.exit(status);
