// Ask for links to keys, signed, from Node: a JOSE library and Redis do it.
//
//     node signed.mjs acme/a.pdf acme/b.pdf

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { gunzipSync } from "node:zlib";
import { createClient } from "@redis/client";
import { CompactSign, compactDecrypt } from "jose";

const { VALETKEY_BROKER_URL, VALETKEY_RESULT_URL, VALETKEY_KEY_FILE } = process.env;

// What `valetkey keygen` wrote, a JWK Set: one key signs what is asked, one opens what is answered.
const jwks = JSON.parse(readFileSync(VALETKEY_KEY_FILE, "utf8"));
const [signing, opening] = ["sig", "enc"].map((use) => jwks.keys.find((key) => key.use === use));

/** A UUID that begins with the time in milliseconds. */
function uuid7() {
  const milliseconds = Date.now().toString(16).padStart(12, "0");
  return `${milliseconds.slice(0, 8)}-${milliseconds.slice(8)}-7${randomUUID().slice(15)}`;
}

/** A compact JWS of a message and of when it is signed; kid is TENANT/NAME. */
function signed(message) {
  const content = JSON.stringify({ ...message, iat: Math.floor(Date.now() / 1000) });
  return new CompactSign(Buffer.from(content))
    .setProtectedHeader({ alg: "Ed25519", kid: signing.kid })
    .sign(signing);
}

/** What a compact JWE says. */
async function opened(answer) {
  // Not sealed is only what is refused before it is known who asks: no link is taken from it.
  if (typeof answer !== "string") return { status: "refused", refusal: answer.refusal };
  const { plaintext, protectedHeader } = await compactDecrypt(answer, opening, {
    keyManagementAlgorithms: ["ECDH-ES"],
    contentEncryptionAlgorithms: ["A256GCM"],
  });
  const content = protectedHeader.cty === "gzip" ? gunzipSync(plaintext) : Buffer.from(plaintext);
  return JSON.parse(content);
}

/** A task as Celery sends it through Redis: its message protocol 2, in kombu's envelope. */
function envelope(id, argument) {
  return JSON.stringify({
    body: Buffer.from(JSON.stringify([[argument], {}, {}])).toString("base64"),
    "content-type": "application/json",
    "content-encoding": "utf-8",
    headers: { lang: "js", task: "valetkey.issue", id, root_id: id },
    properties: {
      body_encoding: "base64",
      correlation_id: id,
      delivery_tag: randomUUID(), // by which a worker acknowledges it
      delivery_info: { exchange: "", routing_key: "valetkey" }, // where to put it back
    },
  });
}

/** The result of a task. A queue may lose a task: send it again then, a batch is charged once. */
async function result(store, id, seconds = 30) {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await pause(20)) {
    const { status, result } = JSON.parse((await store.get(`celery-task-meta-${id}`)) ?? "{}");
    if (status === "SUCCESS") return result;
    if (status === "FAILURE") throw new Error("the worker failed; its log says why");
  }
  throw new Error(`no answer within ${seconds} s: is a worker running?`);
}

const keys = process.argv.slice(2);
const message = {
  v: 1,
  tenant: signing.kid.split("/")[0],
  batch: uuid7(), // yours: the same id again is the same request again
  requested_by: "signed.mjs",
  grant: { kind: "download", bucket: "demo", expires_in: 900 },
  total: keys.length,
  items: keys.map((key) => ({ key })), // 600 at most: a longer batch travels in chunks
};
const broker = await createClient({ url: VALETKEY_BROKER_URL }).connect();
const store = await createClient({ url: VALETKEY_RESULT_URL }).connect();
const id = randomUUID();
await broker.lPush("valetkey", envelope(id, await signed(message)));
const outcome = await opened(await result(store, id));
if (outcome.status === "refused") {
  console.error(`refused: ${outcome.refusal.code}: ${outcome.refusal.message}`);
  process.exitCode = 1;
} else {
  for (const item of outcome.items) console.log(item.key, item.url ?? `refused: ${item.code}`);
}
await Promise.all([broker.close(), store.close()]);
