// A streaming client of the model, as lean as node allows: onText(text) per token.
import http from 'node:http';
const agent = new http.Agent({ keepAlive: true, maxSockets: Infinity });
export function model(port, script, onText) {
  const body = JSON.stringify({ model: 'sim', stream: true, messages: [{ role: 'user', content: script }] });
  return new Promise((res, rej) => {
    const rq = http.request({ port, host: '127.0.0.1', method: 'POST', path: '/v1/chat/completions', agent, headers: { 'content-type': 'application/json', 'content-length': body.length } }, r => {
      r.setEncoding('utf8'); let buf = '';
      r.on('data', d => {
        buf += d; let i;
        while ((i = buf.indexOf('\n\n')) >= 0) {
          const l = buf.slice(0, i); buf = buf.slice(i + 2);
          if (!l.startsWith('data: ') || l === 'data: [DONE]') continue;
          const text = JSON.parse(l.slice(6)).choices[0]?.delta?.content;
          if (text) onText(text);
        }
      });
      r.on('end', res); r.on('error', rej);
    });
    rq.on('error', rej); rq.end(body);
  });
}
