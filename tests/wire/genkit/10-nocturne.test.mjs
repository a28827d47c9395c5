// What Nocturne promises beyond Genkit's own server, with Genkit's own client. Runs inside a copy
// of the conformance suite. Besides its environment: SERVE_PID (tests/wire/serve.sh), TOOLS_URL,
// SECOND_URL (the agents under another api process).
import { readFileSync, readdirSync } from 'node:fs';
import { after, before } from 'node:test';
import { agent, assert, cfg, collect, fails, failsAsAgentError, post, remoteAgent, sim, streamFlow, test, texts, uid, until, url, userMsg } from '../helpers.mjs';

before(() => sim.up());
after(() => sim.down());
const fast = { intervalMs: 50 };
const textOf = (chunks) => chunks.flatMap((c) => c.modelChunk?.content ?? []).map((p) => p.text ?? '').join('');
const named = (name) => remoteAgent({ url: `${cfg.base}/${name}` });
const want = (n) => Array.from({ length: n }, (_, i) => `tok${i}`).join(' ');

// ---- processes of the server under test ----
const stat = (pid) => { try { return /^\d+ \((.*)\) \S (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8')); } catch { return null; } };
const below = (root) => readdirSync('/proc').filter((p) => /^\d+$/.test(p)).map((pid) => ({ pid: Number(pid), stat: stat(pid) }))
  .filter((p) => p.stat && (Number(p.stat[2]) === root || Number(stat(p.stat[2])?.[2]) === root));
const find = (name) => below(Number(process.env.SERVE_PID)).find((p) => p.stat[1] === name.slice(0, 15))?.pid;
const killed = (name) => { const pid = find(name); assert.ok(pid, `no ${name}`); process.kill(pid, 'SIGKILL'); };
const kills = { when: !!process.env.SERVE_PID, why: 'SERVE_PID not set', timeout: 60000 };
const serving = () => until(() => fetch(`${new URL(url.server).origin}/readyz`).then((r) => r.ok, () => false), { ms: 15000, what: 'the api' });

test('a detached turn can be watched live, by its snapshot id as stream id', async () => {
  const task = await agent().chat().detach('stream 12 tokens 40ms');
  const seen = await collect(streamFlow({ url: url.server, streamId: task.snapshotId }));
  assert.equal(textOf(seen.chunks), want(12));
  assert.equal(seen.output.finishReason, 'stop');
  const again = await collect(streamFlow({ url: url.server, streamId: task.snapshotId }));
  assert.deepEqual(again.chunks, seen.chunks);
});

test('who watches a detached turn and leaves does not end it', async () => {
  const task = await agent().chat().detach('stream 12 tokens 40ms');
  const ac = new AbortController();
  const f = streamFlow({ url: url.server, streamId: task.snapshotId, abortSignal: ac.signal });
  setTimeout(() => ac.abort(), 150);
  await collect(f);
  assert.equal((await task.wait(fast)).status, 'completed');
});

test('what a detached turn has said so far is in its pending snapshot', async () => {
  const g = uid('g');
  const task = await agent().chat().detach(`call ${cfg.tool.weather} {"city":"Oslo"} then say one two then gate ${g} then say three`);
  const s = await until(async () => {
    const x = await agent().getSnapshot(task.snapshotId);
    return x.state.messages.length === 4 && texts(x.state.messages)[3].includes('two') && x;
  });
  assert.equal(s.status, 'pending');
  assert.deepEqual(s.state.messages.map((m) => m.role), ['user', 'model', 'tool', 'model']);
  await sim.open(g);
  const end = await task.wait(fast);
  assert.equal(end.status, 'completed');
  assert.equal(end.state.messages.length, 4);
});

test('waitForSnapshot answers when the turn has ended', async () => {
  const g = uid('g');
  const task = await agent().chat().detach(`gate ${g} then say done`);
  const waiting = post(`${url.server}/waitForSnapshot`, { data: { snapshotId: task.snapshotId } });
  setTimeout(() => sim.open(g), 300);
  const r = await waiting;
  assert.equal(r.status, 200);
  assert.equal(r.json.result.status, 'completed');
  assert.equal((await post(`${url.server}/waitForSnapshot`, { data: { snapshotId: uid('no') } })).status, 404);
  assert.equal((await post(`${url.server}/waitForSnapshot`, { data: {} })).status, 400);
});

test('the snapshot of an aborted turn has no finish reason, and what was said', async () => {
  const m = uid();
  const task = await agent().chat().detach(`say ${m} then stream 400 tokens 50ms`);
  await until(async () => (await sim.seen(m))[0]?.chunks > 3);
  await task.abort();
  const s = await until(async () => {
    const x = await agent().getSnapshot(task.snapshotId);
    return !x.heartbeatAt && x;
  });
  assert.equal(s.status, 'aborted');
  assert.ok(!('finishReason' in s) && !('error' in s), JSON.stringify(s));
  assert.ok(texts(s.state.messages)[1].startsWith(m));
});

test('two turns at once on one session: the second waits, nothing forks (enqueue)', async () => {
  const sid = uid('q');
  const a = agent();
  const first = a.chat({ sessionId: sid }).send('slow 40ms a b c d e f');
  await until(async () => (await sim.seen('a b c d e f')).length > 0);
  const second = await a.chat({ sessionId: sid }).send('say n={{n}}');
  assert.equal(second.text, 'n=3');
  assert.equal((await a.getSnapshot(second.snapshotId)).parentId, (await first).snapshotId);
});

test('two turns at once on one session: the second is refused (reject)', async () => {
  const sid = uid('r');
  const g = uid('g');
  const a = named('assistantReject');
  const first = a.chat({ sessionId: sid }).send(`gate ${g} then say first`);
  await until(async () => (await sim.seen(g)).length > 0);
  await failsAsAgentError(a.chat({ sessionId: sid }).send('say second'), 'FAILED_PRECONDITION');
  await sim.open(g);
  assert.equal((await first).text, 'first');
  assert.equal((await a.chat({ sessionId: sid }).send('say n={{n}}')).text, 'n=3');
});

test('two turns at once on one session: the second ends the first (interrupt)', async () => {
  const sid = uid('i');
  const m = uid();
  const a = named('assistantInterrupt');
  const first = a.chat({ sessionId: sid }).send(`stream 400 tokens 50ms then say ${m}`);
  await until(async () => (await sim.seen(m)).length > 0);
  assert.equal((await a.chat({ sessionId: sid }).send('say n={{n}}')).text, 'n=1');
  assert.equal((await first).finishReason, 'aborted');
  assert.equal((await sim.seen(m))[0].status, 'client-closed');
});

test('a session goes on by its id after an aborted turn', async () => {
  const sid = uid('a');
  const a = agent();
  await a.chat({ sessionId: sid }).send('say base');
  const turn = a.chat({ sessionId: sid }).sendStream('stream 100 tokens 40ms');
  setTimeout(() => turn.abort(), 150);
  await turn.response;
  const r = await a.chat({ sessionId: sid }).send('say n={{n}} {{history}}');
  assert.equal(r.text, 'n=3 say base');
});

test('a plain message after a question nobody answered leaves a history the model takes', async () => {
  const m = uid();
  const chat = agent().chat();
  const r = await chat.send(`call ${cfg.tool.ask} {"question":"q"} and call ${cfg.tool.weather} {"city":"Oslo"} then say never`);
  assert.equal(r.finishReason, 'interrupted');
  assert.equal((await chat.send(`say never mind ${m}`)).text, `never mind ${m}`);
  const [{ messages }] = await sim.seen(m);
  const asked = messages.flatMap((x) => x.tool_calls ?? []).map((c) => c.id);
  assert.equal(asked.length, 2);
  assert.deepEqual(messages.filter((x) => x.role === 'tool').map((x) => x.tool_call_id).sort(), asked.sort());
});

test('an answered question is stored as resolved', async () => {
  const chat = agent().chat();
  const r = await chat.send(`call ${cfg.tool.ask} {"question":"q"} and call ${cfg.tool.weather} {"city":"Oslo"} then say {{tools}}`);
  await chat.resume({ respond: [r.interrupts[0].respond('yes')] });
  const { state } = await agent().getSnapshot(chat.snapshotId);
  const parts = state.messages[1].content;
  assert.deepEqual(parts[0].metadata, { resolvedInterrupt: true });
  assert.equal(parts[1].metadata, undefined);
  assert.deepEqual(state.messages[2].metadata, { resumed: true });
  assert.deepEqual(state.messages[2].content.map((p) => p.metadata), [undefined, { source: 'pending' }]);
  assert.deepEqual(state.messages.map((x) => x.role), ['user', 'model', 'tool', 'model']);
});

test('the answers of a resume are one chunk, as they stand in the history', async () => {
  const chat = agent().chat();
  const r = await chat.send(`call ${cfg.tool.weather} {"city":"Oslo"} and call ${cfg.tool.ask} {"question":"q"} then say {{tools}}`);
  const turn = chat.resumeStream({ respond: [r.interrupts[0].respond('yes')] });
  const raws = [];
  for await (const c of turn.stream) raws.push(c.raw);
  await turn.response;
  const { state } = await agent().getSnapshot(chat.snapshotId);
  assert.deepEqual(raws[0].modelChunk, { role: 'tool', index: 0, content: state.messages[2].content });
  assert.deepEqual(state.messages[2].content.map((p) => p.toolResponse.name), [cfg.tool.weather, cfg.tool.ask]);
  assert.deepEqual(state.messages[2].content[0].metadata, { source: 'pending' });
});

test('an answer that is filtered fails the turn, and the session goes on before it', async () => {
  const chat = agent().chat();
  const ok = await chat.send('say base');
  const e = await failsAsAgentError(chat.send('say half then finish content_filter'), 'FAILED_PRECONDITION');
  assert.match(e.message, /Generation blocked/);
  assert.equal(e.response.finishReason, 'failed');
  assert.equal(e.snapshotId, ok.snapshotId);
  const leaf = await agent().getSnapshot({ sessionId: ok.sessionId });
  assert.equal(leaf.status, 'failed');
  assert.deepEqual(texts(leaf.state.messages), ['say base', 'base', 'say half then finish content_filter']);
  assert.equal((await agent().chat({ sessionId: ok.sessionId }).send('say n={{n}}')).text, 'n=3');
});

test('messages of any role and part are taken, and none at all', async () => {
  const A = (message) => agent().chat().send({ message });
  const last = async (m) => (await sim.requests()).map((r) => r.messages).reverse().find((x) => JSON.stringify(x).includes(m)).at(-1);
  for (const role of ['user', 'system', 'model']) {
    const m = uid();
    const r = await A({ role, content: [{ text: m }, { custom: { a: 1 } }] });
    assert.equal(r.finishReason, 'stop', role);
    assert.deepEqual(await last(m), { role: role === 'model' ? 'assistant' : role, content: m });
    const { state } = await agent().getSnapshot(r.snapshotId);
    assert.deepEqual(state.messages[0], { role, content: [{ text: m }, { custom: { a: 1 } }] });
  }
  const m = uid();
  assert.equal((await A({ role: 'user', content: [{ data: { m } }] })).finishReason, 'stop');
  assert.deepEqual(await last(m), { role: 'user', content: `{"m":"${m}"}` });
  assert.equal((await A({ role: 'user', content: [] })).finishReason, 'stop');
  await failsAsAgentError(A({ role: 'user', content: [{ resource: { uri: 'x:y' } }] }), 'NOT_FOUND');
  const chat = agent().chat();
  await chat.send('say one');
  assert.equal((await chat.send({})).text, 'one'); // the script is the last user message, again
  assert.deepEqual((await agent().getSnapshot(chat.snapshotId)).state.messages.map((x) => x.role), ['user', 'model', 'model']);
  await failsAsAgentError(agent().chat().resume({}), 'FAILED_PRECONDITION');
});

test('a provider\'s own words do not reach the client', async () => {
  const m = uid();
  for (const script of ['fail 400', 'fail 500', 'drop', 'garbage', 'ratelimit 9', 'fail 401']) {
    const e = await failsAsAgentError(agent().chat().send(`${script} ${m}`));
    assert.match(e.message, /^[A-Z_]+: the model/, script);
    const all = JSON.stringify(e.response.raw) + e.message;
    for (const word of ['127.0.0.1', String(cfg.modelPort), m, 'scripted', 'http']) assert.ok(!all.includes(word), `${script}: ${word} in ${all}`);
  }
});

test('a turn that is sent again with its idempotency key is the same turn, whatever its session does', async () => {
  for (const name of ['assistantReject', 'assistantInterrupt']) {
    const g = uid('g');
    const body = { data: userMsg(`gate ${g} then say once`), init: { sessionId: uid('k') } };
    const key = { 'idempotency-key': uid('key') };
    const first = post(`${cfg.base}/${name}`, body, key);
    await until(async () => (await sim.seen(g)).length > 0);
    const again = post(`${cfg.base}/${name}`, body, key);
    setTimeout(() => sim.open(g), 300);
    assert.equal((await first).json.result.message?.content[0].text, 'once', name);
    assert.deepEqual((await again).json, (await first).json);
    assert.equal((await sim.seen(g)).length, 1);
  }
});

test('a question that is asked again does not stand in the history twice', async () => {
  const chat = agent().chat();
  const r = await chat.send(`call ${cfg.tool.confirm} {"path":"/x"} then say did {{tool}}`);
  const again = await chat.resume({ restart: [r.interrupts[0].restart()] });
  assert.equal(again.finishReason, 'interrupted');
  const { state } = await agent().getSnapshot(chat.snapshotId);
  assert.deepEqual(state.messages.map((x) => x.role), ['user', 'model']);
  const done = await chat.resume({ restart: [{ ...again.interrupts[0].restart(), metadata: { resumed: true } }] });
  assert.match(done.text, /did .*\/x/);
});

const closed = async (m) => (await sim.seen(m))[0]?.status === 'client-closed';

const alive = { when: process.env.APIS !== 'kill', why: 'an api that dies in the moment after its client left does not tell' };
test('stop closes the model call within 250 ms', alive, async () => {
  const took = [];
  for (let i = 0; i < 7; i++) {
    const m = uid();
    const turn = agent().chat().sendStream(`stream 200 tokens 50ms then say ${m}`);
    turn.response.catch(() => {});
    await until(async () => (await sim.seen(m))[0]?.chunks > 2, { every: 10 });
    const t0 = Date.now();
    turn.abort();
    await until(() => closed(m), { every: 10 });
    took.push((await sim.seen(m))[0].endedAt - t0);
  }
  console.log(`# the model calls were closed after ${took.join(', ')} ms`);
  took.sort((x, y) => x - y);
  assert.ok(took[3] <= 250, `median of ${took}`); // each, on a machine that has nothing else to do
});

const second = { when: !!process.env.SECOND_URL, why: 'SECOND_URL not set' };
const stream = (base, name, streamId, extra = {}) => streamFlow({ url: `${base}/${name}`, streamId, ...extra });
/** A turn in the foreground through the first api: its stream id, and who reads it. */
async function begun(m, n = 30) {
  const ac = new AbortController();
  const f = streamFlow({ url: url.server, input: userMsg(`stream ${n} tokens 50ms then say ${m}`), init: {}, abortSignal: ac.signal });
  const chunks = collect(f);
  const id = await f.streamId;
  await until(async () => (await sim.seen(m))[0]?.chunks > 2, { every: 10 });
  return { id, leave: () => { ac.abort(); return chunks; } };
}

test('who comes back through another api at once has not left', second, async () => {
  const m = uid();
  const turn = await begun(m);
  turn.leave();
  const all = await collect(stream(process.env.SECOND_URL, cfg.agentServer, turn.id));
  assert.equal(all.output.finishReason, 'stop');
  assert.equal(all.output.message.content[0].text, `${want(30)}${m}`);
  assert.equal(textOf(all.chunks), `${want(30)}${m}`);
});

test('a turn goes on while somebody reads it through another api, and ends with the last', second, async () => {
  const m = uid();
  const turn = await begun(m, 400);
  const ac = new AbortController();
  const other = collect(stream(process.env.SECOND_URL, cfg.agentServer, turn.id, { abortSignal: ac.signal }));
  await new Promise((r) => setTimeout(r, 200));
  turn.leave();
  await new Promise((r) => setTimeout(r, 700));
  assert.equal((await sim.seen(m))[0].status, 'open');
  ac.abort();
  await other;
  await until(() => closed(m));
});

test('a client of the JSON path that goes away stops its turn, too', async () => {
  const m = uid();
  const ac = new AbortController();
  const gone = fetch(url.server, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ data: userMsg(`stream 200 tokens 50ms then say ${m}`), init: {} }), signal: ac.signal });
  gone.catch(() => {});
  await until(async () => (await sim.seen(m))[0]?.chunks > 2, { every: 10 });
  ac.abort();
  await until(async () => (await sim.seen(m))[0].status === 'client-closed');
});

test('a session belongs to its agent', async () => {
  const { sessionId } = await agent().chat().send('say mine');
  await failsAsAgentError(named('assistantDurable').chat({ sessionId }).send('say yours'), 'FAILED_PRECONDITION');
  assert.match((await fails(named('assistantDurable').getSnapshot({ sessionId }))).message, /404/);
});

test('a flow of kind http: chunks, output, error, replay', async () => {
  const F = (input, extra = {}) => streamFlow({ url: `${cfg.base}/counterHttp`, input, ...extra });
  const a = await collect(F({ n: 3, ms: 10 }));
  assert.deepEqual(a.chunks, [{ i: 0 }, { i: 1 }, { i: 2 }]);
  assert.deepEqual(a.output, { total: 3 });
  assert.deepEqual((await collect(F(undefined, { streamId: a.streamId }))).chunks, a.chunks);
  const e = await collect(F({ n: 1, ms: 10, fail: true }));
  assert.match(e.error.message, /^INTERNAL: told to fail/);
});

test('a stream of 64 MB arrives and replays', { timeout: 180000 }, async () => {
  const size = (chunks) => chunks.reduce((n, c) => n + c.length, 0);
  const a = await collect(streamFlow({ url: `${cfg.base}/flood`, input: { n: 1024, bytes: 65536 } }));
  assert.equal(a.error, undefined);
  assert.equal(size(a.chunks), 1024 * 65536);
  assert.deepEqual(a.output, { total: 1024 });
  const b = await collect(streamFlow({ url: `${cfg.base}/flood`, streamId: a.streamId }));
  assert.equal(size(b.chunks), 1024 * 65536);
});

test('a worker is killed under a detached turn: it completes, and what had run runs no second time', kills, async () => {
  const g = uid('g');
  const city = uid('Oslo');
  const task = await agent().chat().detach(`call ${cfg.tool.weather} {"city":"${city}"} then gate ${g} then call ${cfg.tool.weather} {"city":"${city}2"} then say {{tools}}`);
  await until(async () => (await sim.seen(g)).length === 2);
  killed('nocturne-worker');
  await sim.open(g);
  const s = await task.wait({ intervalMs: 200 });
  assert.equal(s.status, 'completed');
  const said = texts(s.state.messages).at(-1);
  assert.ok(said.includes(`${city}"`) && said.includes(`${city}2`), said);
  assert.deepEqual(s.state.messages.map((x) => x.role), ['user', 'model', 'tool', 'model', 'tool', 'model']);
  const calls = await (await fetch(`${process.env.TOOLS_URL}/calls`)).json();
  assert.equal(calls[city], 1);
  assert.equal(calls[`${city}2`], 1);
});

test('workers are killed at random points of detached turns', { ...kills, when: kills.when && cfg.long, why: 'LONG=1 and SERVE_PID only', timeout: 280000 }, async () => {
  for (let round = 0; round < 4; round++) {
    const m = uid('Bergen');
    const script = ['A', 'B'].map((x) => `call ${cfg.tool.weather} {"city":"${m}${x}"} then call ${cfg.tool.slow} {"ms":60}`).join(' then ');
    const task = await agent().chat().detach(`${script} then stream 5 tokens 20ms`);
    await new Promise((r) => setTimeout(r, Math.random() * 700));
    await until(() => find('nocturne-worker'), { ms: 60000, what: 'a worker' });
    killed('nocturne-worker');
    const s = await task.wait({ intervalMs: 200 });
    assert.equal(s.status, 'completed', JSON.stringify(s.error));
    assert.equal(texts(s.state.messages).at(-1), want(5));
    assert.equal(s.state.messages.length, 10);
    const calls = await (await fetch(`${process.env.TOOLS_URL}/calls`)).json();
    for (const x of ['A', 'B']) assert.equal(calls[`${m}${x}`], 1, 'one effect');
  }
});

test('an api is killed under a stream: the client sees a cut, and joins again', kills, async () => {
  const f = streamFlow({ url: url.durable, input: userMsg('stream 40 tokens 50ms'), init: {} });
  f.output.catch(() => {});
  const id = await f.streamId;
  let n = 0;
  await fails(async () => { for await (const c of f.stream) if (c.modelChunk && ++n === 5) killed('nocturne-api'); });
  await serving();
  const b = await collect(streamFlow({ url: url.durable, streamId: id }));
  assert.equal(textOf(b.chunks), want(40));
  assert.equal(b.output.message.content[0].text, want(40));
});

test('the database is killed under a detached turn: wait() of the client bears it', kills, async () => {
  const g = uid('g');
  const task = await agent().chat().detach(`gate ${g} then say survived`);
  await until(async () => (await sim.seen(g)).length > 0);
  const waiting = task.wait({ intervalMs: 50 });
  waiting.catch(() => {});
  killed('postgres');
  await new Promise((r) => setTimeout(r, 500));
  await sim.open(g);
  const s = await waiting;
  assert.equal(s.status, 'completed');
  assert.equal(texts(s.state.messages).at(-1), 'survived');
});

test('a worker is killed under a foreground stream: what is void is said to be, and the result is right', kills, async () => {
  const turn = agent().chat().sendStream('stream 30 tokens 40ms');
  const raws = [];
  for await (const c of turn.stream) { raws.push(c.raw); if (raws.length === 8) killed('nocturne-worker'); }
  assert.equal((await turn.response).text, want(30));
  const at = raws.findIndex((r) => r.modelChunk?.aggregated);
  assert.ok(at > 0, 'a chunk that takes back');
  assert.deepEqual(raws[at].modelChunk, { role: 'model', index: 0, content: [], aggregated: true });
  assert.equal(textOf(raws.slice(at)), want(30));
});
