"""Send the same requests to both scripted models and compare what comes back, byte by byte.

Only `id` and `created` of a frame are left out. Prints a line for each difference and
`N passed, N failed` last. Usage: modelsim_compare.py MODELSIM MODELSIM.MJS
"""
import hashlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

TIMEOUT = 20
DEADLINE = 10  # seconds for a condition to come true


# ---- conversations ----

def user(text):
    return {"role": "user", "content": text}


def system(text):
    return {"role": "system", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def called(*calls):
    return {"role": "assistant", "content": None, "tool_calls": [
        {"id": i, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for i, name in calls]}


def result(call_id, text, **more):
    return {"role": "tool", "tool_call_id": call_id, "content": text, **more}


def after(script, *results, before=()):
    """A script whose first call was answered by `results`: (tool, text)."""
    calls = [("c%d" % i, name) for i, (name, _) in enumerate(results)]
    return [*before, user(script), called(*calls),
            *(result("c%d" % i, text) for i, (_, text) in enumerate(results))]


def loop_at(step):
    turn = [m for i in range(step) for m in (called(("l%d" % i, "t")), result("l%d" % i, "r%d" % i))]
    return [user('loop t {"a":1,"b":"{{tool}}"}'), *turn]


HISTORY = [system("be brief"), user("first question"), said("an answer"),
           {"role": "developer", "content": "dev text"}, user("second | question"), said("more")]
SMILE = "\U0001F600"

# Each is sent as a stream and not as one. A string is one user message.
CONVERSATIONS = [
    # say
    "say hello world", "SAY Loud", "say", "say  spaced   out  words  ", "say a then say b",
    "say it's fine then say don't {worry then say braces}", "say one\ntwo\n\nthree\tfour",
    "say \u00fcn\u00efc\u00f6de \u4e16\u754c " + SMILE + " \u00a0nbsp\u3000wide \u2028sep",
    "say quote \" backslash \\ slash / control \u0001\u001f del \u007f", "say <b>&amp;</b>",
    "say then and then", "say a THEN Say b", "say a\nthen\nsay b", "saying nothing", "say: colon",
    "say [1, then say 2] then say ] then say [", "say \"then say x\"", "say \ufeffbom\ufeff ",
    # no verb
    "", "   ", "plain words", "Hello, world! then say x", "123", "sa", "then say x", "stamp collecting",
    "{{n}} users {{users}}", "stamps 5 tokens", "\u00a0say nbsp first",
    # tokens
    "stream 20 tokens", "stream 3 tokens 10ms", "stream 2 10ms", "stream 4", "stream", "stream 0 tokens",
    "stream -3 tokens", "stream x tokens", "stream 2.7 tokens", "stream 1e1 tokens", "stream 0x4 tokens",
    "stream 2 tokens 0s", "stream 2 tokens 5", "stream 2 Tokens 5ms", "stream 2 tokens 1.5ms",
    "repeat 3 ab ", "repeat 2", "repeat", "repeat x y", "repeat 2 {{n}} {{users}}", "repeat 3 " + SMILE,
    "big 10000", "big 4096", "big 4097", "big 1", "big 0", "big x", "big 0.5", "big -1", "big 5000.5",
    "big 300000", "slow 5ms a b c", "slow 5 a b", "slow nothing a b", "slow 1ms", "slow",
    # reason
    "reason let me think then say done", "reason hmm", "reason", "say a then reason b then say c",
    # calls
    'call getWeather {"city":"Tokyo"} then say It is {{tool}}', "call t", "call t {}", "call t []",
    'call t {"a":{"b":[1,2,{"c":null}]},"d":"x then say y","e":[true,false]} then say z',
    'call t { "spaced" :  [ 1 , 2 ] , "s" : "a  b" }', 'call t "just a string"', "call t 5", "call t null",
    "call t true junk behind", "call t 1.50", "call t 1e21", 'call t {"n":[0.1,1e-7,123456789012345680000,-0,5e-324]}',
    'call t {"10":1,"2":2,"b":3,"a":4,"01":5}', 'call t {"a":1,"b":2,"a":3}', 'call a {} and call b {"x":1}',
    'call a {} and call b {} and badargs c {broken and call d [1]', 'call a {"x":"1 and call b"} AND CALL c {}',
    "say Checking then call a {} and call b {\"x\":1} then say {{tools}}", "call call x {}",
    'call t {"text":"\u00e9\u00e8 ' + SMILE * 5 + ' \\u00e9 \\n \\" \\\\ \\/ \u0001"}'.replace("\u0001", "\\u0001"),
    'call t {"a":"1234567' + SMILE + '"}', 'call t {"x":"{{users}} {{history}} {{n}}"}', "call t{} {}",
    'call t {"deep":' + "[" * 50 + "]" * 50 + "}", 'call \u00fcber {"\u00fc":1}', 'call t {"":""}',
    "badargs t {not json", "badargs t", "badargs t a  b\nc", 'badargs "q" x"y', "call badargs t {nope",
    'loop t {"a":1}', "say a then loop t {} then say never",
    # broken scripts
    "call", "call t {", 'call t {"a":1', "call t nonsense", "call t {a:1}", "call t [1,]", "loop", "badargs", "loop t {",
    'iftool', 'iftool "x"', 'iftool "x', 'iftool "x" nothing otherwise say b', 'iftool "x" say a otherwise b',
    # iftool without results
    'iftool "true" say approved otherwise say denied', 'iftool "true" say approved', "iftool 5 say a otherwise say b",
    'iftool "" say a otherwise say b', 'iftool "x" say a otherwise call t {} then say c',
    'iftool "x" say a otherwise fail 500', 'iftool "x" say a OTHERWISE say b otherwise say c',
    'iftool "x" say a otherwise iftool "y" say b otherwise say c', 'iftool "x" say a otherwise empty then say b',
    'iftool "x" say a otherwise finish length then say b', 'iftool "x" say a otherwise stream 2 tokens then say b',
    'iftool "x" say a otherwise wait 1ms then say b', 'iftool [1,"a",null] say a otherwise say b',
    # ends
    "say a then finish length", "finish content_filter", "finish", "call t {} then finish length", "finish a\"b",
    "iftool \"x\" say a otherwise call t {} then finish length", "usage 100 20", "usage", "usage x y",
    "usage 1.5 2.25 then say a", "say a b c then usage 7 8 then usage 9 10", "usage 5", "empty", "empty then say a",
    "nodone", "say a then nodone", "wait 5ms then say late", "wait then empty", "say a then wait 3ms then say b",
    # failures
    "fail 500", "fail 400", "fail 401", "fail 403", "fail 404", "fail 429", "fail 503", "fail 418", "fail", "fail 599",
    "fail 99", "fail x", "fail 1000", "fail 500.7", "fail 200", "wait 5ms then fail 502", "say a b then wait 30ms then fail 500",
    "finish length then fail 500", "drop", "say a b then drop", "stream 3 tokens then drop", "garbage", "say a then garbage",
    "call t {} and call u {} then drop", "stream 3 tokens 5ms then garbage then say never", "reason a then drop",
    # templates
    after("call t {} then say It is {{tool}}", ("t", "sunny 21\u00b0")),
    after("call t {} then say {{tool:t}} {{tool:u}} {{tool:v}}", ("t", "T"), ("u", "U")),
    after("call t {} then say {{tools}}", ("t", "a b"), ("u", "{\"x\":1}"), ("t", "c")),
    after("call t {} then say {{tool:}} {{ tool }} {{{tool}}} {{tool {{n}} {{nope}} {{N}} }}", ("t", "T")),
    after("call t {}", ("t", "the result")), after("call t {}", ("t", "")), after("call t {} then say [{{tool}}]", ("t", "  ")),
    after("call t {} then repeat 3 {{tool}},", ("t", "x")), after("call t {} then call u {\"r\":\"{{tool}}\"}", ("t", "q\"uote")),
    after("call t {} then reason {{tool}} then slow 1ms {{tools}}", ("t", "x y")),
    [*HISTORY, user("say {{n}} {{users}} {{history}} / {{system}}")],
    [*HISTORY, user("call t {\"h\":\"{{history}}\",\"s\":\"{{system}}\"}")],
    [system("one"), system("two"), user("say {{system}} {{n}}")], [user("say {{history}}|{{system}}|{{tools}}|{{tool}}")],
    after("call t {} then say {{n}} {{users}} {{history}}", ("t", "x"), before=HISTORY),
    # iftool with results
    *(after('call askUser {"question":"ok?"} then iftool "true" say approved otherwise say denied', ("askUser", t))
      for t in ("true", "false", "{\"ok\":true}", "")),
    after('call t {} then iftool "x" call u {"got":"{{tool}}"} otherwise say no then say after', ("t", "axb")),
    after('call t {} then iftool "x" say 1 otherwise say 2 then iftool "y" say 3 otherwise say 4', ("t", "y"), ("u", "z")),
    after('call t {} then iftool "x" drop otherwise say b', ("t", "x")), after('call t {} then iftool "x" garbage', ("t", "x")),
    after('call t {} then iftool 5 say five otherwise say none', ("t", "a5b")),
    after('call t {} then iftool null say yes otherwise say no', ("t", "null")),
    after('call t {} then iftool {"a":1} say yes otherwise say no', ("t", "[object Object]")),
    after('call t {} then iftool [1,[2,"b"],null] say yes otherwise say no', ("t", "1,2,b,")),
    after('call t {} then iftool "\u00e9" say yes otherwise say no', ("t", "caf\u00e9")),
    # steps
    *(loop_at(step) for step in (0, 1, 2, 7)),
    after("call a {} then call b {} then say third", ("a", "1")),
    [*after("call a {} then call b {} then say third", ("a", "1")), called(("d", "b")), result("d", "2")],
    [*after("call a {}", ("a", "1")), said("x"), said("y")], [*after("call a {} then say x", ("a", "1")), user("say new turn {{tools}}")],
    [*after("say a then call t {} then loop u {}", ("t", "1")), called(("d", "u")), result("d", "2")],
    # odd conversations
    [], [system("only system")], [said("only assistant")], [user("say a"), said("b")], [{"role": "user"}],
    [{"role": "user", "content": None}], [{"role": "user", "content": 5}], [{"role": "user", "content": {"text": "say a"}}],
    [{"role": "user", "content": [{"type": "text", "text": "say a "}, {"type": "image_url"}, "b", None, {"text": 5}]}],
    [user("call t {}"), said("x"), result("nope", "r", name="own")], [user("call t {}"), said("x"), result("nope", "r")],
    [user("call t {} then say {{tools}}"), said("x"), result("nope", "r", name="own"), result("nope", "r2")],
    [user("call t {} then say {{tool}}"), said("x"), {"role": "tool", "content": [{"type": "text", "text": "parts"}]}],
    [{"role": "developer", "content": "d"}, user("call t {} then say {{system}} {{n}}")],
    [{"content": "no role"}, user("say {{n}}")], [5, "x", user("say {{n}}")], [None, user("say a")],
    [{"role": "user", "content": "call t {}", "x": [1.5, 1e300, True, None, {"2": 1, "1": 2, "k\u00e9y\n": "v"}]}],
]

# (name, body, tries): sent that often, with the same body.
REQUESTS = [
    ("usage chunk", {"messages": [user("say a b")], "stream": True, "stream_options": {"include_usage": True}}, 1),
    ("usage chunk of a call", {"messages": after("call t {} then reason x y then say {{tool}}", ("t", "a b c"), before=HISTORY),
                               "stream": True, "stream_options": {"include_usage": True}}, 1),
    ("usage chunk, set", {"messages": [user("say a then usage 5 6")], "stream": True, "stream_options": {"include_usage": True}}, 1),
    ("usage chunk, not a number", {"messages": [user("usage x")], "stream": True, "stream_options": {"include_usage": True}}, 1),
    ("usage chunk, nodone", {"messages": [user("nodone")], "stream": True, "stream_options": {"include_usage": True}}, 1),
    ("usage of white space", {"messages": [user("say {{tool}}"), said(" "), result("x", " \n")], "stream": True,
                              "stream_options": {"include_usage": True}}, 1),
    ("include_usage is not true", {"messages": [user("say a")], "stream": True, "stream_options": {"include_usage": 1}}, 1),
    ("no usage chunk", {"messages": [user("say a")], "stream": True, "stream_options": {}}, 1),
    ("model name", {"messages": [user("say a")], "stream": True, "model": "my/model \u00e9\"q\""}, 1),
    ("model name, whole", {"messages": [user("say a")], "model": "gpt-x"}, 1),
    ("model is null", {"messages": [user("say a")], "model": None}, 1),
    ("model is a number", {"messages": [user("say a")], "stream": True, "model": 4.5}, 1),
    ("stream is 1", {"messages": [user("say a")], "stream": 1}, 1),
    ("stream is empty", {"messages": [user("say a")], "stream": ""}, 1),
    ("stream is 0", {"messages": [user("say a")], "stream": 0}, 1),
    ("stream is null", {"messages": [user("say a")], "stream": None}, 1),
    ("no messages", {"stream": True}, 1),
    ("messages is text", {"messages": "say a", "stream": True}, 1),
    ("body is a number", 5, 1),
    ("body is a list", [], 1),
    ("tools", {"messages": [user("say tools")], "stream": True, "tools": [
        {"type": "function", "function": {"name": "t", "parameters": {}}}, {"type": "x"}]}, 1),
    *(("%s, %s" % (script, "stream" if stream else "whole"), {"messages": [user(script)], "stream": stream}, tries)
      for stream in (True, False) for script, tries in (
          ("ratelimit 2 then say ok", 4), ("ratelimit 1 after 3 then say ok", 3), ("ratelimit then say ok now", 3),
          ("ratelimit 1 after 0.5 then say ok", 2), ("ratelimit 1 after then say x", 2), ("ratelimit x then say no", 3),
          ("flaky 1 then say ok", 3), ("flaky 2 500 then say fine", 3), ("flaky 1 429 then say limited", 2), ("flaky 0 then say x", 1),
          ("ratelimit 1 then flaky 1 then say both", 4), ("say a then wait 30ms then flaky 1 then say b", 2),
          ("flaky then call t {}", 2), ("ratelimit 1 after 2 3 then say x", 2))),
]

RAW = [("not JSON", b"{nope"), ("empty body", b""), ("two values", b"{} {}"), ("bare word", b"nope"), ("null", b"null"),
       ("white space around", b' \n{ "messages" : [ { "role" : "user" , "content" : "call t {}" } ] } \n'),
       ("escapes", b'{"messages":[{"role":"user","content":"call t {\\"a\\":\\"\\u00e9\\ud83d\\ude00\\/\\"}","x":"\\/\\u0041\\u001F"}],"stream":true}'),
       ("numbers", b'{"messages":[{"role":"user","content":"call t {}","n":[1.0,1E5,-0.0,1e-7,12345678901234567890,0.1e1]}]}'),
       ("doubled keys", b'{"messages":[{"role":"user","content":"say a","content":"call t {}","z":1,"5":2,"z":3}]}')]


# ---- talking ----

class Server:
    def __init__(self, argv, stderr=None):
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=stderr, text=True)
        line = self.process.stdout.readline()
        self.port = int(re.fullmatch(r"modelsim listening on http://127\.0\.0\.1:(\d+)/v1\n", line)[1])

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        seen = {"status": None, "retry-after": None, "type": None, "end": "clean", "text": b""}
        try:
            connection.request(method, path, body, {"content-type": "application/json"} if body is not None else {})
            answer = connection.getresponse()
            seen.update({"status": answer.status, "retry-after": answer.getheader("retry-after"),
                         "type": answer.getheader("content-type")})
            while piece := answer.read1(65536):
                seen["text"] += piece
        except (http.client.HTTPException, ConnectionError) as e:
            seen["end"] = "cut"
            if isinstance(e, http.client.IncompleteRead):
                seen["text"] += e.partial
        finally:
            connection.close()
        seen["text"] = seen["text"].decode()
        return seen

    def chat(self, body):
        return self.call("POST", "/v1/chat/completions", body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode())

    def log(self):
        return json.loads(self.call("GET", "/__sim/requests")["text"])

    def leave(self, body):
        """Send and go away once the request is in the log."""
        before = len(self.log())
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        self.until(lambda log: len(log) > before)
        connection.close()
        self.until(lambda log: log[-1]["status"] != "open")

    def until(self, condition):
        deadline = time.monotonic() + DEADLINE
        while not condition(self.log()) and time.monotonic() < deadline:
            time.sleep(0.01)

    def gated(self, body, name):
        """Answer of a request that waits at gate `name`, and how it was while it waited."""
        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.chat(body)))
        thread.start()
        self.until(lambda log: log and log[-1].get("gate") == name)
        waiting = self.log()[-1]["status"]
        self.call("POST", "/__sim/gate/" + urllib.parse.quote(name))
        thread.join(TIMEOUT)
        return waiting, answers[0]

    def slowly(self, body):
        """The answer to a client that lets it pile up first, which must stop the writing."""
        text = json.dumps(body).encode()
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            s.settimeout(TIMEOUT)
            s.connect(("127.0.0.1", self.port))
            s.sendall(b"POST /v1/chat/completions HTTP/1.0\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
            time.sleep(0.3)  # nothing to wait for: the point is that we do not read
            pieces = []
            while piece := s.recv(65536):
                pieces.append(piece)
        answer = b"".join(pieces).split(b"\r\n\r\n", 1)[1]
        answer = re.sub(rb'"id":"chatcmpl-sim-\d+"|"created":\d+', b"", answer)
        return len(answer), hashlib.sha256(answer).hexdigest()

    def open(self, body):
        """Send and neither read nor close; the socket must be kept."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        return connection

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT)


def plain(seen):
    """Without what may differ: ids, times, and V8's words for a script it cannot read."""
    text = re.sub(r'"id":"chatcmpl-sim-\d+"', '"id":0', seen["text"])
    text = re.sub(r'"created":\d+', '"created":0', text)
    if seen["status"] == 500 and '"sim_error"' in text and "Invalid status" not in text:
        text = '"sim_error"'
    if seen["type"] is None and text == '{"choices":[':  # node names no type there
        seen = {**seen, "type": "application/json"}
    return {**seen, "text": text}


def final_text(seen):
    """What a client makes of the answer."""
    try:
        if not (seen["type"] or "").startswith("text/event-stream"):
            return json.loads(seen["text"])["choices"][0]["message"]["content"]
        frames = [f[6:] for f in seen["text"].split("\n\n") if f.startswith("data: {")]
        return "".join(c["delta"].get("content") or "" for f in frames for c in json.loads(f)["choices"])
    except (ValueError, KeyError, TypeError):
        return None


def plain_log(entry):
    entry = {k: v for k, v in entry.items() if k not in ("id", "at", "endedAt", "headers")}
    return entry


class Tally:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, name, ours, theirs):
        if ours == theirs:
            self.passed += 1
            return
        self.failed += 1
        text_a, text_b = json.dumps(ours), json.dumps(theirs)
        at = next((i for i, (a, b) in enumerate(zip(text_a, text_b)) if a != b), min(len(text_a), len(text_b)))
        start = max(0, at - 60)
        print("FAIL %s: ours ...%s... theirs ...%s..." % (name[:80], text_a[start:at + 60], text_b[start:at + 60]))

    def both(self, name, ours, theirs):
        ours, theirs = plain(ours), plain(theirs)
        self.check(name, [ours, final_text(ours)], [theirs, final_text(theirs)])


def bodies():
    for i, conversation in enumerate(CONVERSATIONS):
        messages = [user(conversation)] if isinstance(conversation, str) else conversation
        name = conversation if isinstance(conversation, str) else "#%d %s" % (i, json.dumps(messages[-1:]))
        yield name + ", stream", {"messages": messages, "stream": True}, 1
        yield name + ", whole", {"messages": messages}, 1
    yield from REQUESTS


def compare(ours, theirs, tally):
    for name, body, tries in bodies():
        for n in range(tries):
            tally.both("%s, try %d" % (name, n + 1) if tries > 1 else name, ours.chat(body), theirs.chat(body))
    for name, raw in RAW:
        tally.both(name, ours.chat(raw), theirs.chat(raw))
    for stream in (True, False):
        for script in ("gate g1 then say released", "say a then gate g\u00e9 then say {{n}}", "gate then drop"):
            name = (re.search(r"gate (g\S+)", script) or ["", "default"])[1]
            body = {"messages": [user(script)], "stream": stream}
            (was, a), (is_, b) = (server.gated(body, name) for server in (ours, theirs))
            tally.check("waits at " + script, was, is_)
            tally.both(script, a, b)
            tally.both(script + ", open", ours.chat(body), theirs.chat(body))
            for server in (ours, theirs):  # closes the gates, forgets the log on both
                server.logs = getattr(server, "logs", []) + server.log()
                server.call("POST", "/__sim/reset")
        for script in ("hang", "say a then hang", "gate never", "wait 60s", "stream 100000 tokens 20ms"):
            for server in (ours, theirs):
                server.leave({"messages": [user(script)], "stream": stream})
            tally.check(script + ": the client leaves", ours.log()[-1]["status"], theirs.log()[-1]["status"])
    for method, path in (("GET", "/v1/models"), ("GET", "/models"), ("GET", "/x"), ("POST", "/v1/models"), ("PUT", "/v1/chat/completions"),
                         ("GET", "/v1/chat/completions"), ("GET", "/__sim/health"), ("GET", "/__sim/nothing"), ("POST", "/__sim/health"),
                         ("POST", "/__sim/gate/%zz"), ("GET", "/__sim/gate/a%20b"), ("GET", "/__sim"), ("POST", "/__sim/reset")):
        logs(ours, theirs, tally, method, path)


def logs(ours, theirs, tally, method, path):
    if path == "/__sim/reset":
        compare_logs(ours, theirs, tally)
    tally.both("%s %s" % (method, path), ours.call(method, path), theirs.call(method, path))
    if path == "/__sim/reset":
        tally.check("the log after a reset", ours.log(), theirs.log())


def compare_logs(ours, theirs, tally):
    a, b = ours.logs + ours.log(), theirs.logs + theirs.log()
    tally.check("requests in the log", len(a), len(b))
    for x, y in zip(a, b):
        if y["status"] == "client-closed":  # how many frames came before is chance
            x["chunks"] = y["chunks"] = 0
        tally.check("log of " + x["script"], plain_log(x), plain_log(y))


def compare_loads(ours, theirs, tally):
    """What does not fit into a request and an answer."""
    for script in ("big 8000000", "say a then repeat 30000 some more words", "call t {\"x\":\"%s\"}" % ("y" * 100000)):
        body = {"messages": [user(script)], "stream": True}
        tally.check("read slowly: " + script, ours.slowly(body), theirs.slowly(body))
    tally.check("a body above 64 MiB", ours.call("POST", "/v1/chat/completions", b" " * ((64 << 20) + 1))["status"], 413)
    stamped = final_text(ours.chat({"messages": [user("stamp 5 tokens 2ms")], "stream": True}))
    stamps = [int(word) / 1e6 for word in stamped.split(" ")[:-1]]
    tally.check("stamps", [len(stamps), stamps == sorted(stamps), abs(stamps[0] - time.time()) < 60], [5, True, True])
    stats = json.loads(ours.call("GET", "/__sim/stats")["text"])
    tally.check("nothing is open", stats["open"], 0)
    tally.check("all were counted", [stats["requests"] > 500, stats["tokens"] > 30000], [True, True])


def leave_open(server):
    """Requests in every kind of wait, for the end of the program to clean up."""
    scripts = ("hang", "gate g", "wait 60s", "stream 100000 tokens 1ms", "big 50000000", "slow 5s a b")
    kept = [server.open({"messages": [user(s)], "stream": stream}) for s in scripts for stream in (True, False)]
    server.until(lambda log: sum(e["status"] == "open" for e in log) >= len(kept) - 1)  # whole big is done
    return kept


def main():
    tally = Tally()
    ours = Server([sys.argv[1], "--port", "0"])
    theirs = Server(["node", sys.argv[2], "--port", "0"], subprocess.DEVNULL)  # it tells of each bad script
    try:
        compare(ours, theirs, tally)
        compare_loads(ours, theirs, tally)
        kept = leave_open(ours)
    finally:
        codes = [ours.stop(), theirs.stop()]
    tally.check("exit codes on SIGTERM", codes, [0, 0])
    for connection in kept:
        connection.close()
    print("%d passed, %d failed" % (tally.passed, tally.failed))
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
