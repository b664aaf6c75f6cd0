// Trailers as Node's own server and client send and see them, over HTTP/1.1 and HTTP/2.
//
// trailers.mjs serve PORT PORT2   answers in clear text, HTTP/1.1 on PORT and HTTP/2 on PORT2, until it is ended
// trailers.mjs talk 1|2 URL CA    uploads a body with a trailer and prints the answer as JSON
import { readFileSync } from "node:fs";
import http from "node:http";
import http2 from "node:http2";
import https from "node:https";

const HOST = "127.0.0.1";

async function text(stream) {
  let all = "";
  for await (const part of stream.setEncoding("utf8")) all += part;
  return all;
}

/** Says in the body which trailers came, and in a trailer how long the request's body was. */
async function answer(request, response) {
  const { length } = await text(request);
  response.setHeader("Trailer", "X-Length, X-Forwarded-For");
  response.write(JSON.stringify(request.trailers));
  response.addTrailers({ "X-Length": String(length), "X-Forwarded-For": "6.6.6.6" });
  response.end();
}

function serve(port, port2) {
  http.createServer(answer).listen(port, HOST);
  http2.createServer(answer).listen(port2, HOST);
}

async function talk1(url, ca) {
  const headers = { Trailer: "X-Check", TE: "trailers" };
  const request = https.request(url, { method: "POST", ca, headers });
  request.write("hello ");
  request.addTrailers({ "X-Check": "kept" });
  request.end("node");
  const response = await new Promise((answered, failed) => request.on("response", answered).on("error", failed));
  const seen = JSON.parse(await text(response));
  return { status: response.statusCode, seen, trailers: response.trailers };
}

async function talk2(url, ca) {
  const client = http2.connect(url.origin, { ca });
  const head = { ":method": "POST", ":path": url.pathname, trailer: "x-check", te: "trailers" };
  const stream = client.request(head, { waitForTrailers: true });
  stream.on("wantTrailers", () => stream.sendTrailers({ "x-check": "kept" }));
  stream.write("hello ");
  stream.end("node");
  let status, trailers;
  stream.on("response", (headers) => (status = headers[":status"]));
  stream.on("trailers", (headers) => (trailers = { ...headers }));
  const seen = JSON.parse(await text(stream));
  client.close();
  return { status, seen, trailers };
}

const [verb, ...rest] = process.argv.slice(2);
if (verb === "serve") {
  serve(...rest.map(Number));
} else {
  const [version, url, ca] = rest;
  const talk = version === "2" ? talk2 : talk1;
  console.log(JSON.stringify(await talk(new URL(url), readFileSync(ca))));
}
