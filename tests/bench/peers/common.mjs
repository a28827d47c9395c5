import fs from 'node:fs';
import pg from 'pg';
export const now = () => performance.timeOrigin + performance.now();
export const sleep = ms => new Promise(r => setTimeout(r, ms));
const TCK = 100; // USER_HZ
export function procCpu(pid, children = false) { // seconds
  try {
    const s = fs.readFileSync(`/proc/${pid}/stat`, 'utf8');
    const f = s.slice(s.lastIndexOf(')') + 2).split(' ');
    // f[0]=state, f[1]=ppid, utime=f[11], stime=f[12], cutime=f[13], cstime=f[14]
    return { ppid: +f[1], cpu: (+f[11] + +f[12] + (children ? +f[13] + +f[14] : 0)) / TCK };
  } catch { return { ppid: 0, cpu: 0 }; }
}
export function procRss(pid) {
  try {
    const s = fs.readFileSync(`/proc/${pid}/status`, 'utf8');
    const g = k => +(s.match(new RegExp(k + ':\\s+(\\d+)'))?.[1] ?? 0) / 1024;
    return { rss_mb: +g('VmRSS').toFixed(1), hwm_mb: +g('VmHWM').toFixed(1) };
  } catch { return { rss_mb: 0, hwm_mb: 0 }; }
}
export function sysCpu() { // seconds of all CPUs: busy, idle, stolen
  const f = fs.readFileSync('/proc/stat', 'utf8').split('\n')[0].trim().split(/\s+/).slice(1).map(Number);
  return { busy: (f[0] + f[1] + f[2] + f[5] + f[6]) / TCK, idle: (f[3] + f[4]) / TCK, steal: f[7] / TCK };
}
// CPU of the whole PostgreSQL instance: postmaster + reaped children + living children
export async function pgMeter(client) {
  let pm = 0;
  try {
    const { rows } = await client.query('select pg_backend_pid() as p');
    pm = procCpu(rows[0].p).ppid;
  } catch {}
  const cpu = () => {
    if (!pm) return 0;
    let t = procCpu(pm, true).cpu;
    for (const d of fs.readdirSync('/proc')) {
      if (!/^\d+$/.test(d)) continue;
      const s = procCpu(d);
      if (s.ppid === pm) t += s.cpu;
    }
    return t;
  };
  return {
    async snap() {
      const { rows } = await client.query("select pg_current_wal_insert_lsn()-'0/0'::pg_lsn as l, (select sum(xact_commit) from pg_stat_database) as x");
      return { cpu: cpu(), wal: +rows[0].l, sys: sysCpu(), t: now() };
    },
    // of the WAL between two snaps, the pages that went into it whole, as their first change after a checkpoint
    async images(a, b, n) {
      if (a.wal === b.wal) return {}; // BullMQ on Redis
      await client.query('create extension if not exists pg_walinspect');
      const { rows } = await client.query(`select sum(fpi_size) as bytes from pg_get_wal_stats('0/0'::pg_lsn + $1::numeric,
        least('0/0'::pg_lsn + $2::numeric, pg_current_wal_flush_lsn()))`, [a.wal, b.wal]);
      return { wal_images_per_job: Math.round(rows[0].bytes / n) };
    },
  };
}
export const diff = (a, b, n) => ({
  wall_s: +((b.t - a.t) / 1000).toFixed(3),
  pg_cpu_s_per_1k: +(((b.cpu - a.cpu) / n) * 1000).toFixed(4),
  wal_bytes_per_job: Math.round((b.wal - a.wal) / n),
  // whole machine during the phase, to judge interference: compare with pg + worker CPU
  sys_busy_cores: +((b.sys.busy - a.sys.busy) / ((b.t - a.t) / 1000)).toFixed(2), sys_steal_cores: +((b.sys.steal - a.sys.steal) / ((b.t - a.t) / 1000)).toFixed(2),
  pg_cpu_s: +(b.cpu - a.cpu).toFixed(2),
});
export function pct(arr, p) {
  if (!arr.length) return null;
  const s = [...arr].sort((x, y) => x - y);
  return +s[Math.min(s.length - 1, Math.floor((p / 100) * s.length))].toFixed(2);
}
export async function freshDb(url, db) {
  const c = new pg.Client({ connectionString: url }); await c.connect();
  await c.query(`drop database if exists "${db}" with (force)`);
  await c.query(`create database "${db}"`);
  await c.end();
  const u = new URL(url); u.pathname = '/' + db; return u.toString();
}
export async function dropDb(url, db) {
  const c = new pg.Client({ connectionString: url }); await c.connect();
  await c.query(`drop database if exists "${db}" with (force)`);
  await c.end();
}
export const payload = i => ({ kind: 'noop', n: i, pad: 'x'.repeat(24) });
