"""The client commands against a server that misbehaves: cuts, repeats, leaves out, refuses.

The fake speaks the API's shapes (design, section 7) from a script; what the real server does is
tested in test_cli.py.
"""
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import harness

NOCTURNE = os.path.join(harness.BUILD, "bin/nocturne")
TASK = "01980000-0000-7000-8000-000000000001"
AT = "2026-01-02T03:04:05.%03dZ"


class Fake:
    """Events of one task, and how each connection to them goes wrong."""

    def __init__(self):
        self.lock = threading.Lock()
        self.requests = []
        self.events = []
        self.plan = []        # one function(handler, events) per connection, then all is well
        self.answers = {}     # "METHOD path" -> list of (status, body)
        self.task = {"task_id": TASK, "session_id": "s", "agent": "a", "revision": 1,
                     "status": "completed", "finish_reason": "stop", "input": "hi",
                     "output": {"text": "hello"}, "attempts": [], "last_seq": 0,
                     "created_at": AT % 0, "metadata": {}}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(self):
                n = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(n).decode()
                with fake.lock:
                    fake.requests.append((self.command, self.path, dict(self.headers), body))
                    script = fake.answers.get(self.command + " " + self.path.split("?")[0])
                    answer = script.pop(0) if script and len(script) > 1 else script and script[0]
                if self.path.split("?")[0].endswith("/events"):
                    return self.stream()
                if not answer and self.command == "GET" and self.path.startswith("/v1/tasks/" + TASK):
                    answer = (200, fake.task)
                if not answer:
                    answer = (404, {"title": "Not Found", "status": 404, "code": "not_found",
                                    "detail": "there is nothing here", "request_id": "r1"})
                self.reply(*answer)

            def reply(self, status, body):
                if status == 0:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/problem+json" if status >= 400
                                 else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def stream(self):
                after = int(self.headers.get("Last-Event-ID") or 0)
                with fake.lock:
                    how = fake.plan.pop(0) if fake.plan else well
                self.close_connection = True
                how(self, [e for e in fake.events if e["seq"] > after])

            def begin(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.flush()

            def event(self, e):
                self.wfile.write(b"id: %d\nevent: %s\ndata: %s\n\n" % (
                    e["seq"], e["type"].encode(), json.dumps(e).encode()))
                self.wfile.flush()

            do_GET = do_POST = do_PUT = do_DELETE = answer

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = "http://127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05},
                         daemon=True).start()

    def turn(self, n, end=True, **ended):
        """turn.started, step.started, n deltas, turn.ended."""
        self.events = []
        self.add("turn.started")
        self.add("step.started", step=1)
        for i in range(n):
            self.add("content.delta", text="tok%d " % i)
        if end:
            self.add("turn.ended", **(ended or {"status": "completed", "finish_reason": "stop"}))
        self.task["last_seq"] = len(self.events)

    def add(self, type_, **fields):
        seq = len(self.events) + 1
        self.events.append(dict({"seq": seq, "type": type_, "at": AT % (seq % 1000)}, **fields))

    def streams(self):
        return [r for r in self.requests if r[1].endswith("/events")]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def well(handler, events):
    handler.begin()
    for e in events:
        handler.event(e)


def cut_after(n):
    """Whole events, then half of one."""
    def how(handler, events):
        handler.begin()
        for e in events[:n]:
            handler.event(e)
        handler.wfile.write(b"id: 999\nevent: content.delta\ndata: {\"seq\":999,\"te")
        handler.wfile.flush()
    return how


def repeats(handler, events):
    well(handler, [e for e in events for _ in range(2)])


def leaves_out(seq):
    def how(handler, events):
        well(handler, [e for e in events if e["seq"] != seq])
    return how


def answers(status):
    def how(handler, events):
        handler.reply(status, {"title": "no", "status": status, "detail": "not now"})
    return how


def hangs(after, gate):
    def how(handler, events):
        handler.begin()
        for e in events[:after]:
            handler.event(e)
        gate.wait(20)
    return how


def run(*args, url=None, text=None, timeout=30, env=None):
    e = harness.sanitizer_env(dict(env or {}, **({"NOCTURNE_URL": url} if url else {})))
    done = subprocess.run([NOCTURNE] + list(args), input=text, capture_output=True, text=True,
                          timeout=timeout, env=e, cwd=tempfile.gettempdir())
    assert not harness.SANITIZER.search(done.stderr), done.stderr
    return done


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Case(unittest.TestCase):
    def setUp(self):
        self.fake = Fake()
        self.addCleanup(self.fake.close)

    def run_cli(self, *args, **kw):
        return run(*args, url=self.fake.url, **kw)


class Follow(Case):
    def text(self, n):
        return "".join("tok%d " % i for i in range(n)) + "\n"

    def tail(self, *args):
        return self.run_cli("tail", TASK, *args)

    def test_shows_the_text_and_ends_with_the_turn(self):
        self.fake.turn(20)
        r = self.tail()
        self.assertEqual((r.returncode, r.stdout), (0, self.text(20)), r.stderr)

    def test_comes_back_after_every_cut_without_losing_or_repeating(self):
        self.fake.turn(20)
        self.fake.plan = [cut_after(1), cut_after(0), cut_after(7), cut_after(3), repeats]
        r = self.tail()
        self.assertEqual((r.returncode, r.stdout), (0, self.text(20)), r.stderr)
        cursors = [s[2]["Last-Event-ID"] for s in self.fake.streams()]
        self.assertEqual(cursors, ["0", "1", "1", "8", "11"])

    def test_asks_again_when_an_event_is_missing(self):
        self.fake.turn(9)
        self.fake.plan = [leaves_out(5)]
        r = self.tail()
        self.assertEqual((r.returncode, r.stdout), (0, self.text(9)), r.stderr)
        self.assertEqual([s[2]["Last-Event-ID"] for s in self.fake.streams()], ["0", "4"])

    def test_says_which_events_the_server_lost_and_goes_on(self):
        self.fake.turn(9)
        self.fake.plan = [leaves_out(5)] * 9
        r = self.tail()
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(r.stdout, self.text(9).replace("tok2 ", ""))
        self.assertIn("no longer has events 5 to 5", r.stderr)

    def test_bears_a_server_that_cannot_work_for_a_while(self):
        self.fake.turn(9)
        self.fake.plan = [cut_after(3), answers(503), answers(429), answers(500)]
        r = self.tail()
        self.assertEqual((r.returncode, r.stdout), (0, self.text(9)), r.stderr)

    def test_starts_behind_the_event_it_is_told(self):
        self.fake.turn(9)
        r = self.tail("--after", "6")
        self.assertEqual((r.returncode, r.stdout), (0, "tok4 tok5 tok6 tok7 tok8 \n"))

    def test_ends_when_nothing_is_left_after_the_cursor(self):
        self.fake.turn(3)
        self.fake.plan = [answers(204)]
        r = self.tail("--after", "6")
        self.assertEqual((r.returncode, r.stdout), (0, ""), r.stderr)

    def test_prints_each_event_as_a_line_of_json(self):
        self.fake.turn(5)
        self.fake.plan = [cut_after(2)]
        r = self.tail("--json")
        self.assertEqual(r.returncode, 0)
        self.assertEqual([json.loads(line) for line in r.stdout.splitlines()], self.fake.events)

    def test_tells_of_tools_on_stderr_and_keeps_them_out_of_stdout(self):
        self.fake.turn(0, end=False)
        self.fake.add("content.delta", text="Looking.")
        self.fake.add("step.ended", step=1)
        self.fake.add("tool.started", name="read_file", call_id="c1", input={"path": "a"})
        self.fake.add("tool.result", name="read_file", call_id="c1", output="text of a")
        self.fake.add("step.started", step=2)
        self.fake.add("content.delta", text="Done")
        self.fake.add("turn.ended", status="completed", finish_reason="stop")
        r = self.tail()
        self.assertEqual(r.stdout, "Looking.\nDone\n")
        self.assertIn('-> read_file {"path":"a"}', r.stderr)
        self.assertIn("<- read_file text of a", r.stderr)

    def test_tells_of_a_reset(self):
        self.fake.turn(2, end=False)
        self.fake.add("reset", to_seq=2, reason="rescued")
        self.fake.add("turn.ended", status="completed", finish_reason="stop")
        self.assertIn("taken back to event 2 (rescued)", self.tail().stderr)

    def test_prints_the_output_when_nothing_streamed(self):
        self.fake.turn(0, status="completed", finish_reason="stop", output={"data": {"n": [1, 2.50]}})
        self.assertEqual(json.loads(self.tail().stdout), {"n": [1, 2.5]})

    def test_exits_as_the_turn_ended(self):
        ends = [("completed", "stop", 0), ("failed", "error", 1), ("incomplete", "length", 4),
                ("aborted", "aborted", 5), ("expired", "expired", 6),
                ("completed", "interrupted", 7)]
        for status, reason, code in ends:
            with self.subTest(status=status, reason=reason):
                self.fake.turn(1, status=status, finish_reason=reason)
                self.fake.task.update(status=status, finish_reason=reason)
                self.assertEqual(self.tail().returncode, code)

    def test_says_what_the_turn_waits_for_and_how_to_answer(self):
        self.fake.turn(1, status="completed", finish_reason="interrupted")
        self.fake.task.update(finish_reason="interrupted", interrupts=[
            {"name": "askUser", "call_id": "c1", "input": {"question": "ok?"}}])
        r = self.tail()
        self.assertEqual(r.returncode, 7)
        self.assertIn('askUser {"question":"ok?"}', r.stderr)
        self.assertIn("nocturne resume %s --respond askUser=" % TASK, r.stderr)

    def test_detaches_on_ctrl_c_and_says_how_to_come_back(self):
        gate = threading.Event()
        self.addCleanup(gate.set)
        self.fake.turn(9)
        self.fake.plan = [hangs(6, gate)]
        p = subprocess.Popen([NOCTURNE, "tail", TASK, "--url", self.fake.url],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        got = ""
        while "tok3" not in got:
            got += p.stdout.read(1)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=10)
        self.assertEqual(p.returncode, 130)
        self.assertIn("nocturne tail %s --after 6" % TASK, err)
        self.assertEqual([r[0] for r in self.fake.requests], ["GET"])

    def test_gives_up_when_there_is_no_such_task_or_no_server(self):
        self.fake.plan = [answers(404)]
        r = self.tail()
        self.assertEqual(r.returncode, 3)
        self.assertIn("not now", r.stderr)
        r = run("tail", TASK, url="http://127.0.0.1:%d" % free_port())
        self.assertEqual(r.returncode, 8)

    def test_survives_lines_of_any_length_and_wild_bytes(self):
        self.fake.turn(0, end=False)
        self.fake.add("content.delta", text="x" * 3000000)
        self.fake.add("turn.ended", status="completed", finish_reason="stop")
        r = self.tail()
        self.assertEqual((r.returncode, len(r.stdout)), (0, 3000001))


class Terminal(Case):
    """What a person at a terminal sees."""

    def on_terminal(self, *args, until=None, send=None, env=None):
        pid, fd = pty.fork()
        if pid == 0:
            e = dict(os.environ, TERM="xterm", NOCTURNE_URL=self.fake.url, **(env or {}))
            os.execve(NOCTURNE, [NOCTURNE] + list(args), e)
        out, sent, deadline = b"", False, time.monotonic() + 20
        while time.monotonic() < deadline:
            if select.select([fd], [], [], 0.1)[0]:
                try:
                    data = os.read(fd, 65536)
                except OSError:
                    break
                if not data:
                    break
                out += data
            if send and not sent and until in out:
                os.write(fd, send)
                sent = True
        os.close(fd)
        status = os.waitpid(pid, 0)[1]
        return os.waitstatus_to_exitcode(status), out.decode()

    def test_shows_a_status_line_and_takes_it_away(self):
        gate = threading.Event()
        self.addCleanup(gate.set)
        self.fake.turn(4)
        self.fake.plan = [hangs(4, gate)]
        threading.Timer(0.7, gate.set).start()
        code, out = self.on_terminal("tail", TASK)
        self.assertEqual(code, 0)
        self.assertRegex(out, r"\d\.\d s, step 1, about \d+ tokens")
        self.assertRegex(out, r"\n$")
        last = out.rindex("tokens")
        self.assertIn("\x1b[K", out[last:])

    def test_lets_no_control_characters_through(self):
        self.fake.turn(0, end=False)
        self.fake.add("content.delta", text="a\x1b]0;title\x07b\u009bc\td\n")
        self.fake.add("tool.started", name="t\x1b[2J", input="\x1b[31m")
        self.fake.add("turn.ended", status="completed", finish_reason="stop")
        code, out = self.on_terminal("tail", TASK)
        self.assertEqual(code, 0)
        self.assertIn("a?]0;title?b?c\td", out)
        self.assertNotIn("\x1b[2J", out)
        self.assertNotIn("\x1b[31m", out)

    def test_ctrl_c_on_the_keyboard_detaches(self):
        gate = threading.Event()
        self.addCleanup(gate.set)
        self.fake.turn(4)
        self.fake.plan = [hangs(4, gate)]
        code, out = self.on_terminal("tail", TASK, until=b"tok1", send=b"\x03")
        self.assertEqual(code, 130)
        self.assertIn("--after 4", out)


class Submit(Case):
    ACCEPTED = {"task_id": TASK, "session_id": "s", "status": "queued", "created_at": AT % 0}

    def submit(self, *args, **kw):
        self.fake.answers["POST /v1/agents/echo/tasks"] = kw.pop("script", [(202, self.ACCEPTED)])
        return self.run_cli("submit", "echo", *args, **kw)

    def body(self):
        return json.loads([r for r in self.fake.requests if r[0] == "POST"][-1][3])

    def test_prints_the_id_alone(self):
        r = self.submit("hello \"you\"")
        self.assertEqual((r.returncode, r.stdout, r.stderr), (0, TASK + "\n", ""))
        self.assertEqual(self.body(), {"input": "hello \"you\""})

    def test_sends_every_option(self):
        self.submit("x", "--session", "s1", "--snapshot", TASK, "--run-at", "2030-01-02T03:04:05Z",
                    "--priority=3", "--max-attempts", "2", "--deadline", "2031-01-02T03:04:05+02:00",
                    "--metadata", '{"a": 1.10}', "--idempotency-key", "k1")
        self.assertEqual(self.body(), {
            "input": "x", "session_id": "s1", "snapshot_id": TASK, "run_at": "2030-01-02T03:04:05Z",
            "deadline": "2031-01-02T03:04:05+02:00", "priority": 3, "max_attempts": 2,
            "metadata": {"a": 1.1}})
        self.assertEqual(self.fake.requests[-1][2]["Idempotency-Key"], "k1")

    def test_turns_a_duration_into_a_time(self):
        self.submit("x", "--run-at", "1h")
        at = time.strptime(self.body()["run_at"][:19], "%Y-%m-%dT%H:%M:%S")
        import calendar
        self.assertAlmostEqual(calendar.timegm(at), time.time() + 3600, delta=5)

    def test_reads_standard_input_and_json(self):
        self.submit("-", text="line\nä\n")
        self.assertEqual(self.body(), {"input": "line\nä\n"})
        self.submit("--input", '{"n": [1, {"big": 12345678901234567890}]}')
        self.assertIn("12345678901234567890", self.fake.requests[-1][3])

    def test_sends_again_with_the_same_key_when_the_answer_is_lost(self):
        r = self.submit("x", script=[(0, None), (503, {}), (202, self.ACCEPTED)])
        self.assertEqual((r.returncode, r.stdout), (0, TASK + "\n"), r.stderr)
        keys = {q[2]["Idempotency-Key"] for q in self.fake.requests}
        self.assertEqual((len(self.fake.requests), len(keys)), (3, 1))

    def test_waits_for_the_answer(self):
        r = self.submit("x", "--wait")
        self.assertEqual((r.returncode, r.stdout), (0, "hello\n"))
        r = self.submit("x", "--wait", "--json")
        self.assertEqual(json.loads(r.stdout), self.fake.task)

    def test_follows_the_turn(self):
        self.fake.turn(3)
        r = self.submit("x", "--follow")
        self.assertEqual((r.returncode, r.stdout), (0, "tok0 tok1 tok2 \n"))
        self.assertIn(TASK, r.stderr)
        r = self.submit("x", "--follow", "--json")
        self.assertEqual([json.loads(line) for line in r.stdout.splitlines()],
                         [self.ACCEPTED] + self.fake.events)

    def test_tells_what_the_server_found_wrong(self):
        problem = {"type": "about:blank", "title": "Bad Request", "status": 400, "code": "invalid",
                   "detail": "the body is not valid", "request_id": "r9",
                   "errors": [{"pointer": "/priority", "detail": "must be from 0 to 9"}]}
        r = self.submit("x", "--priority", "99", script=[(400, problem)])
        self.assertEqual((r.returncode, r.stdout), (2, ""))
        self.assertIn("the body is not valid", r.stderr)
        self.assertIn("/priority: must be from 0 to 9", r.stderr)
        self.assertIn("r9", r.stderr)
        r = self.submit("x", "--json", script=[(400, problem)])
        self.assertEqual(json.loads(r.stdout), problem)

    def test_bears_an_answer_that_is_no_problem_document(self):
        for body in ("text", None, [], {"title": 7, "errors": "x"}):
            r = self.submit("x", script=[(500, body)])
            self.assertEqual(r.returncode, 1)
        self.assertEqual(self.submit("x", script=[(202, {"task_id": 7})]).returncode, 1)
        self.assertEqual(self.submit("x", script=[(202, "nonsense")]).returncode, 1)


class Others(Case):
    def test_wait_polls_until_the_end(self):
        running = dict(self.fake.task, status="running", finish_reason=None, output=None)
        self.fake.answers["GET /v1/tasks/" + TASK] = [(200, running), (200, running), (0, None),
                                                      (200, self.fake.task)]
        r = self.run_cli("wait", TASK)
        self.assertEqual((r.returncode, r.stdout), (0, "hello\n"), r.stderr)
        self.assertIn("wait=30000ms", self.fake.requests[0][1])

    def test_wait_gives_up_in_time(self):
        running = dict(self.fake.task, status="running", finish_reason=None, output=None)
        self.fake.answers["GET /v1/tasks/" + TASK] = [(200, running)]
        r = self.run_cli("wait", TASK, "--timeout", "200ms")
        self.assertEqual(r.returncode, 9)
        self.assertIn("running", r.stderr)

    def test_show_prints_output_usage_and_attempts(self):
        self.fake.task.update(usage={"input_tokens": 12, "output_tokens": 34}, attempts=[
            {"epoch": 1, "worker": "w:1", "started_at": AT % 0, "ended_at": AT % 250,
             "outcome": "retry", "error": {"code": "model_error", "message": "boom"}},
            {"epoch": 2, "worker": "w:2", "started_at": AT % 300, "ended_at": AT % 900,
             "outcome": "completed"}])
        r = self.run_cli("show", TASK)
        self.assertEqual(r.returncode, 0)
        for part in ("12 tokens in, 34 out", "attempt 1  retry on w:1", "250 ms: boom",
                     "attempt 2  completed on w:2", "600 ms", "hello"):
            self.assertIn(part, r.stdout)
        self.assertEqual(json.loads(self.run_cli("show", TASK, "--json").stdout), self.fake.task)

    def test_show_of_nothing(self):
        r = self.run_cli("show", "no/such task")
        self.assertEqual(r.returncode, 3)
        self.assertEqual(self.fake.requests[-1][1], "/v1/tasks/no%2Fsuch%20task")

    def test_list_follows_the_pages(self):
        page = lambda a, b: [dict(self.fake.task, task_id="t%03d" % i) for i in range(a, b)]
        self.fake.answers["GET /v1/tasks"] = [
            (200, {"tasks": page(0, 200), "next": "/v1/tasks?before=x"}), (200, {"tasks": page(200, 210)})]
        r = self.run_cli("list", "--limit", "300", "--status", "completed", "--agent", "a b",
                         "--session", "s&1", "--json")
        self.assertEqual(r.returncode, 0)
        self.assertEqual(len(json.loads(r.stdout)["tasks"]), 210)
        self.assertEqual([q[1] for q in self.fake.requests],
                         ["/v1/tasks?limit=200&status=completed&agent=a%20b&session_id=s%261",
                          "/v1/tasks?before=x"])

    def test_list_goes_on_behind_an_empty_page(self):
        self.fake.answers["GET /v1/tasks"] = [
            (200, {"tasks": [], "next": "/v1/tasks?before=%d" % i}) for i in (1, 2)] + [
            (200, {"tasks": [self.fake.task]})]
        lines = self.run_cli("list").stdout.splitlines()
        self.assertEqual(len(lines), 2, lines)
        self.fake.answers["GET /v1/tasks"] = [(200, {"tasks": [], "next": "/v1/tasks?limit=50"})] * 2
        self.assertEqual(self.run_cli("list", "--limit", "50").returncode, 0, "a next that leads nowhere")

    def test_list_is_a_table(self):
        self.fake.answers["GET /v1/tasks"] = [(200, {"tasks": [self.fake.task]})]
        lines = self.run_cli("list").stdout.splitlines()
        self.assertEqual(len(lines), 2)
        self.assertRegex(lines[1], r"^%s  completed +%s 03:04:05 " % (TASK, AT[:10]))

    def test_abort_sends_the_reason(self):
        self.fake.answers["POST /v1/tasks/%s/abort" % TASK] = [
            (202, {"task_id": TASK, "status": "aborting"})]
        r = self.run_cli("abort", TASK, "--reason", "enough")
        self.assertEqual((r.returncode, r.stderr), (0, "aborting\n"))
        self.assertEqual(json.loads(self.fake.requests[-1][3]), {"reason": "enough"})

    def test_resume_sends_the_answers(self):
        self.fake.answers["POST /v1/tasks/%s/resume" % TASK] = [(202, Submit.ACCEPTED)]
        r = self.run_cli("resume", TASK, "--respond", 'ask={"a":"="}', "--respond", 'ask/c2="x"',
                         "--restart", "del", "--restart", "del/c7")
        self.assertEqual((r.returncode, r.stdout), (0, TASK + "\n"))
        self.assertEqual(json.loads(self.fake.requests[-1][3]), {
            "respond": [{"name": "ask", "output": {"a": "="}},
                        {"name": "ask", "call_id": "c2", "output": "x"}],
            "restart": [{"name": "del"}, {"name": "del", "call_id": "c7"}]})

    def test_agents_apply_sends_all_in_one_request(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("one", "two"):
                with open(os.path.join(folder, name + ".json"), "w") as f:
                    f.write('{"kind": "echo", "description": "%s"}' % name)
            self.fake.answers["PUT /v1/agents"] = [(200, {"agents": [
                {"name": "one", "revision": 2, "changed": True},
                {"name": "two", "revision": 1, "changed": False}]})]
            r = self.run_cli("agents", "apply", folder)
            self.assertEqual((r.returncode, r.stdout),
                             (0, "one: revision 2\ntwo: revision 1, as before\n"), r.stderr)
            self.assertEqual(json.loads(self.fake.requests[-1][3]), {"agents": {
                "one": {"kind": "echo", "description": "one"},
                "two": {"kind": "echo", "description": "two"}}})

    def test_agents_apply_reports_every_mistake_and_sends_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in (("good", '{"kind":"echo"}'), ("bad", '{"kind":"echo","tools":7,"x":1}'),
                               ("torn", '{"kind":'), ("na me", '{"kind":"echo"}')):
                with open(os.path.join(folder, name + ".json"), "w") as f:
                    f.write(text)
            r = self.run_cli("agents", "apply", folder)
        self.assertEqual(r.returncode, 2)
        self.assertIn("bad.json: /x: ", r.stderr)
        self.assertIn("bad.json: /tools: ", r.stderr)
        self.assertIn("torn.json: ", r.stderr)
        self.assertIn("na me.json: the file name", r.stderr)
        self.assertEqual(self.fake.requests, [])

    def test_agents_list_show_delete(self):
        agent = {"name": "one", "revision": 2, "kind": "echo", "updated_at": AT % 0}
        self.fake.answers["GET /v1/agents"] = [(200, {"agents": [agent]})]
        self.assertIn("one ", self.run_cli("agents", "list").stdout)
        self.assertEqual(json.loads(self.run_cli("agents", "list", "--json").stdout),
                         {"agents": [agent]})
        self.fake.answers["GET /v1/agents/one"] = [(200, dict(agent, definition={}))]
        self.assertEqual(json.loads(self.run_cli("agents", "show", "one").stdout)["revision"], 2)
        self.fake.answers["DELETE /v1/agents/one"] = [(200, {"name": "one"})]
        self.assertEqual(self.run_cli("agents", "delete", "one").returncode, 0)
        self.assertEqual(self.run_cli("agents", "delete", "two").returncode, 3)


class Usage(unittest.TestCase):
    def test_every_command_has_help(self):
        top = run("--help")
        self.assertEqual(top.returncode, 0)
        commands = re.findall(r"^  ((?:agents )?[a-z]+) .*?[A-Z].*\.$", top.stdout, re.M)
        self.assertEqual(len(commands), 15)
        for code in ("130", "7", "8", "9"):
            self.assertRegex(top.stdout, r"(?m)^  %s +\w" % code)
        for command in commands:
            r = run(*command.split(), "--help")
            self.assertEqual((r.returncode, r.stderr), (0, ""))
            self.assertIn("usage: nocturne " + command, r.stdout)
        self.assertEqual(run("agents", "--help").returncode, 0)
        self.assertRegex(run("--version").stdout, r"^nocturne \d+\.\d+")

    def test_mistakes_on_the_command_line(self):
        bad = [[], ["nonsense"], ["submit"], ["submit", "a"], ["submit", "a", "b", "c"],
               ["submit", "a", "b", "--input", "1"], ["submit", "a", "--input", "{"],
               ["submit", "a", "b", "--metadata", "x"], ["submit", "a", "b", "--run-at", "soon"],
               ["submit", "a", "b", "--priority", "high"], ["submit", "a", "b", "--priority"],
               ["submit", "a", "b", "--follow=1"], ["submit", "a", "b", "--follow", "--wait"],
               ["submit", "a", "b", "--nonsense"], ["submit", "a", "b", "-x"],
               ["submit", "a", b"\xff\xfe"], ["tail"], ["tail", "a", "b"], ["tail", "a", "--after", "x"],
               ["tail", "a", "--url", "ftp://x"], ["tail", "a", "--url", "nonsense"],
               ["wait", "a", "--timeout", "30"], ["list", "x"], ["list", "--limit", "-1"],
               ["abort"], ["resume", "a"], ["resume", "a", "--respond", "x"],
               ["resume", "a", "--respond", "=1"], ["resume", "a", "--respond", "t={"],
               ["agents"], ["agents", "nonsense"], ["agents", "show"], ["agents", "apply"],
               ["migrate", "now"], ["migrate"], ["doctor"]]
        for args in bad:
            with self.subTest(args=args):
                r = run(*args, url="http://127.0.0.1:1")
                self.assertEqual((r.returncode, r.stdout), (2, ""))
                self.assertTrue(r.stderr)

    def test_two_dashes_end_the_options(self):
        fake = Fake()
        self.addCleanup(fake.close)
        fake.answers["POST /v1/agents/echo/tasks"] = [(202, Submit.ACCEPTED)]
        r = run("submit", "echo", "--", "--follow", url=fake.url)
        self.assertEqual(r.returncode, 0)
        self.assertEqual(json.loads(fake.requests[0][3])["input"], "--follow")

    def test_an_unreachable_server(self):
        url = "http://127.0.0.1:%d" % free_port()
        for args in (["show", TASK], ["list"], ["abort", TASK], ["submit", "a", "b"],
                     ["wait", TASK], ["agents", "list"]):
            with self.subTest(args=args):
                r = run(*args, url=url)
                self.assertEqual((r.returncode, r.stdout), (8, ""))
                self.assertIn("no answer from " + url, r.stderr)


def functions(*classes):
    """The tests of the classes as functions, which is what run.py looks for."""
    def function(cls, name):
        return lambda: cls(name).debug()
    return {"%s_of_%s" % (name, cls.__name__.lower()): function(cls, name)
            for cls in classes for name in unittest.TestLoader().getTestCaseNames(cls)}


globals().update(functions(Follow, Terminal, Submit, Others, Usage))

if __name__ == "__main__":
    unittest.main()
