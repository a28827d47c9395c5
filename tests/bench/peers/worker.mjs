// A peer's worker in a process of its own: node worker.mjs PEER URL PROFILE noop|lat   (forked by bench.mjs)
import { now } from './common.mjs';
const [, , peer, url, profile, mode] = process.argv;
const A = (await import(`./adapters/${peer}.mjs`)).default;
let n = 0, lat = [];
const handlers = {
  noop: async () => { if (!n++) process.send({ t: 'first', at: now() }); },
  lat: async p => { n++; lat.push(now() - p.t0); },
};
let w;
process.on('message', async m => {
  if (m === 'go') { w = await A.startWorker(url, profile, handlers[mode]); process.send({ t: 'up' }); }
  if (m === 'dump') process.send({ t: 'lat', lat });
  if (m === 'stop') { const t = setTimeout(() => process.exit(0), 4000); try { await w?.stop?.(); } catch {} clearTimeout(t); process.exit(0); }
});
process.on('disconnect', () => process.exit(0));
process.on('unhandledRejection', e => { console.error('unhandled', e?.message); });
setInterval(() => process.connected && process.send({ t: 'count', n }), 25).unref();
process.send({ t: 'ready' });
