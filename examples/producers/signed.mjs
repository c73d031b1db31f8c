// Requests download links with signed messages. Needs only Node, Redis and a JOSE library.
//
//     node signed.mjs acme/a.pdf acme/b.pdf
//     node signed.mjs < keys.txt > links.txt

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { gunzipSync } from "node:zlib";
import { createClient } from "@redis/client";
import { CompactSign, compactDecrypt } from "jose";

const IN_FLIGHT = 3; // messages without a reply; so few may all be sent again
const MAX_CONTENT = 16 * 1024 ** 2; // bytes of a reply
const QUEUES = ["valetkey", "valetkey.bulk"];
const PARTS = ["database", "credentials", "storage"]; // which may be unavailable

const { VALETKEY_BROKER_URL, VALETKEY_RESULT_URL, VALETKEY_KEY_FILE } = process.env;
if (!VALETKEY_BROKER_URL || !VALETKEY_RESULT_URL || !VALETKEY_KEY_FILE) {
  console.error("set VALETKEY_BROKER_URL, VALETKEY_RESULT_URL and VALETKEY_KEY_FILE");
  process.exit(2);
}
// To repeat a request, set its BATCH_ID. A message has at most 1,000 items. TIMEOUT is the number of
// seconds without any reply after which the program gives up.
const { BATCH_ID = uuid7(), CHUNK_SIZE = "600", TIMEOUT = "60" } = process.env;

// The output of `valetkey keygen`, a JWK Set: one key signs requests, the other decrypts results.
const jwks = JSON.parse(readFileSync(VALETKEY_KEY_FILE, "utf8"));
const signingKey = jwks.keys.find((key) => key.use === "sig");
const decryptionKey = jwks.keys.find((key) => key.use === "enc");
const tenant = signingKey.kid.split("/")[0]; // kid is TENANT/NAME

/** Returns a UUIDv7: it begins with the time in milliseconds. */
function uuid7() {
  const milliseconds = Date.now().toString(16).padStart(12, "0");
  return `${milliseconds.slice(0, 8)}-${milliseconds.slice(8)}-7${randomUUID().slice(15)}`;
}

/** Returns the messages of a batch, which are equal but for `chunk` and `items`. */
function chunks(batch, keys, size) {
  const header = {
    v: 1,
    tenant,
    batch,
    requested_by: "signed.mjs",
    grant: { kind: "download", bucket: "demo", expires_in: 900 },
    total: keys.length,
    chunk_size: size,
  };
  return Array.from({ length: Math.ceil(keys.length / size) }, (_, chunk) => {
    const items = keys.slice(chunk * size, (chunk + 1) * size).map((key) => ({ key }));
    return { ...header, chunk, items };
  });
}

/** Returns a compact JWS of a message and the time of signing. */
function sign(message) {
  const content = JSON.stringify({ ...message, iat: Math.floor(Date.now() / 1000) });
  return new CompactSign(Buffer.from(content))
    .setProtectedHeader({ alg: "Ed25519", kid: signingKey.kid })
    .sign(signingKey);
}

/** Decrypts a compact JWE and parses its JSON. */
async function unseal(result) {
  // The service sends plain JSON only to refuse an unauthenticated message. Read nothing else from
  // it: anyone with write access to the result store could have written it.
  if (typeof result !== "string") {
    return { status: "refused", batch: "", refusal: result.refusal, items: [] };
  }
  const { plaintext, protectedHeader } = await compactDecrypt(result, decryptionKey, {
    keyManagementAlgorithms: ["ECDH-ES"],
    contentEncryptionAlgorithms: ["A256GCM"],
  });
  // Anyone can seal to a public key, so what is decompressed must be limited.
  const isCompressed = protectedHeader.cty === "gzip";
  const options = { maxOutputLength: MAX_CONTENT };
  return JSON.parse(isCompressed ? gunzipSync(plaintext, options) : Buffer.from(plaintext));
}

/** Returns a task as Celery sends it through Redis: message protocol 2, in kombu's envelope. */
function taskMessage(id, argument, queue, isCopy) {
  return JSON.stringify({
    body: Buffer.from(JSON.stringify([[argument], {}, {}])).toString("base64"),
    "content-type": "application/json",
    "content-encoding": "utf-8",
    headers: { lang: "js", task: "valetkey.issue", id, root_id: id },
    properties: {
      body_encoding: "base64",
      correlation_id: id,
      delivery_tag: randomUUID(), // the worker acknowledges the message by it
      delivery_info: { exchange: "", routing_key: queue, redelivered: isCopy },
    },
  });
}

const broker = connection(VALETKEY_BROKER_URL);
const store = connection(VALETKEY_RESULT_URL);
const subscriber = connection(VALETKEY_RESULT_URL);
let lastReply = Date.now();
let problem = "is a worker running?";

/** Returns a client that does not connect again: repeat the request with its batch id instead. */
function connection(url) {
  const client = createClient({ url, socket: { reconnectStrategy: false } });
  return client.on("error", () => {}); // the command that fails throws the error
}

/** Sends a message until it has a reply, and returns that: the service charges a batch once. */
async function request(message, queue) {
  const id = `${message.batch}.${message.chunk}`;
  const envelopes = []; // the first one, which keeps its place in the queue, and the last copy
  let announce = () => {};
  await subscriber.subscribe(`celery-task-meta-${id}`, () => announce());
  for (let due = 0, interval = 3000; ; ) {
    const announcement = new Promise((resolve) => (announce = resolve));
    const reply = await readReply(id, message);
    if (reply) {
      lastReply = Date.now();
      await subscriber.unsubscribe(`celery-task-meta-${id}`);
      return reply;
    }
    if (Date.now() > lastReply + TIMEOUT * 1000) {
      await remove(envelopes, queue);
      throw new Error(`no reply within ${TIMEOUT} s: ${problem}`);
    }
    if (Date.now() > due) {
      await remove(envelopes.splice(1), queue);
      envelopes.push(taskMessage(id, await sign(message), queue, envelopes.length > 0));
      await broker.lPush(queue, envelopes.at(-1));
      due = Date.now() + interval * (1 + Math.random() / 2);
      interval = Math.min(interval * 2, 60_000);
    }
    await Promise.race([announcement, sleep(1000, undefined, { ref: false })]);
  }
}

/** Removes envelopes that no worker has taken, wherever they wait. */
async function remove(envelopes, queue) {
  const lane = queue.replace("valetkey", `valetkey.waiting:${tenant}`);
  for (const envelope of envelopes) {
    for (const list of [queue, lane]) await broker.lRem(list, 1, envelope);
    for (const list of QUEUES) await broker.lRem(list, 1, `${envelope} `);
  }
}

/** Returns the reply in a stored result, undefined if there is none yet. */
async function readReply(id, message) {
  const stored = await store.get(`celery-task-meta-${id}`);
  if (stored === null) return undefined;
  try {
    const { status, result } = JSON.parse(stored);
    if (status === "SUCCESS") {
      const reply = await unseal(result);
      if (isReplyTo(message, reply)) return reply;
      problem = "the result is that of another request";
    } else {
      problem = describeHint(result) ?? problem;
      if (status !== "FAILURE") return undefined; // RETRY: the service tries again by itself
    }
  } catch (error) {
    problem = `the result cannot be read: ${error.message}`;
  }
  await store.del(`celery-task-meta-${id}`); // of no use: the message will be sent again
  return undefined;
}

/** Describes a recent hint in our own words, because anyone can forge one: it is not sealed. */
function describeHint({ code, part, at, retry_in = 0 }) {
  const isRecent = Date.now() / 1000 < at + retry_in + 60;
  if (code !== "unavailable" || !isRecent) return undefined;
  return `the service says that it is unavailable (${PARTS.includes(part) ? part : "service"})`;
}

function isReplyTo(message, { status, batch, chunk, items, refusal }) {
  if (status === "refused") return refusal?.code && (batch === "" || batch === message.batch);
  const isSame = batch === message.batch && chunk === message.chunk;
  const isComplete = items.length === message.items.length;
  const isGrantOf = (asked, item) => !item.url || item.key === asked.key;
  return isSame && isComplete && message.items.every((asked, n) => isGrantOf(asked, items[n]));
}

function print({ batch, chunk }, { refusal, items }) {
  if (refusal) {
    console.error(`refused ${batch}.${chunk} ${refusal.code} ${refusal.message}`);
    process.exitCode = 1;
  }
  for (const item of items) console.log(`${item.key} ${item.url ?? `refused: ${item.code}`}`);
}

const words = process.argv.slice(2);
const keys = words.length ? words : (await text(process.stdin)).split(/\r?\n/).filter(Boolean);
const messages = chunks(BATCH_ID, keys, Number(CHUNK_SIZE));
const queue = keys.length > 20 ? QUEUES[1] : QUEUES[0];
const unsent = messages.values();
const replies = [];
let answered = 0; // keys
let printed = 0; // replies

/** Requests one message after the other, and prints the replies in the order of the messages. */
async function requestNext() {
  for (const message of unsent) {
    replies[message.chunk] = await request(message, queue);
    answered += message.items.length;
    if (messages.length > 1) console.error(`batch ${BATCH_ID}: ${answered} of ${keys.length} keys`);
    for (; replies[printed]; printed++) print(messages[printed], replies[printed]);
  }
}

try {
  await Promise.all([broker, store, subscriber].map((client) => client.connect()));
  const results = await Promise.allSettled(Array.from({ length: IN_FLIGHT }, requestNext));
  for (const { reason } of results) if (reason) throw reason;
} catch (error) {
  console.error(`${error.message || error.code}; to repeat the request, set BATCH_ID=${BATCH_ID}`);
  process.exitCode = 1;
}
for (const client of [broker, store, subscriber]) if (client.isOpen) client.destroy();
