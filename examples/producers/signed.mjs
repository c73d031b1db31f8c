// Requests download links with a signed message. Needs only Node, Redis and a JOSE library.
//
//     node signed.mjs acme/a.pdf acme/b.pdf

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { gunzipSync } from "node:zlib";
import { createClient } from "@redis/client";
import { CompactSign, compactDecrypt } from "jose";

const { VALETKEY_BROKER_URL, VALETKEY_RESULT_URL, VALETKEY_KEY_FILE } = process.env;

// The output of `valetkey keygen`, a JWK Set: one key signs requests, the other decrypts results.
const jwks = JSON.parse(readFileSync(VALETKEY_KEY_FILE, "utf8"));
const signingKey = jwks.keys.find((key) => key.use === "sig");
const decryptionKey = jwks.keys.find((key) => key.use === "enc");

/** Returns a UUIDv7: it begins with the time in milliseconds. */
function uuid7() {
  const milliseconds = Date.now().toString(16).padStart(12, "0");
  return `${milliseconds.slice(0, 8)}-${milliseconds.slice(8)}-7${randomUUID().slice(15)}`;
}

/** Returns a compact JWS of a message and the time of signing; kid is TENANT/NAME. */
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
  if (typeof result !== "string") return { status: "refused", refusal: result.refusal };
  const { plaintext, protectedHeader } = await compactDecrypt(result, decryptionKey, {
    keyManagementAlgorithms: ["ECDH-ES"],
    contentEncryptionAlgorithms: ["A256GCM"],
  });
  const content = protectedHeader.cty === "gzip" ? gunzipSync(plaintext) : Buffer.from(plaintext);
  return JSON.parse(content);
}

/** Returns a task as Celery sends it through Redis: message protocol 2, in kombu's envelope. */
function taskMessage(id, argument) {
  return JSON.stringify({
    body: Buffer.from(JSON.stringify([[argument], {}, {}])).toString("base64"),
    "content-type": "application/json",
    "content-encoding": "utf-8",
    headers: { lang: "js", task: "valetkey.issue", id, root_id: id },
    properties: {
      body_encoding: "base64",
      correlation_id: id,
      delivery_tag: randomUUID(), // the worker acknowledges the message by it
      delivery_info: { exchange: "", routing_key: "valetkey" }, // queue for a redelivery
    },
  });
}

/**
 * Waits for the result of a task. A queue can lose a message. After a timeout, send it again: the
 * service charges a batch once.
 */
async function waitForResult(store, id, seconds = 30) {
  let reason = "is a worker running?";
  for (const deadline = Date.now() + seconds * 1000; Date.now() < deadline; await sleep(20)) {
    const { status, result } = JSON.parse((await store.get(`celery-task-meta-${id}`)) ?? "{}");
    if (status === "SUCCESS") return result;
    const hint = result?.code === "unavailable" ? result.exc_message[0] : undefined;
    if (status === "FAILURE") throw new Error(hint ?? "the worker failed; its log has the reason");
    reason = hint ?? reason; // status RETRY: the service tries again by itself
  }
  throw new Error(`no result within ${seconds} s: ${reason}`);
}

const keys = process.argv.slice(2);
const message = {
  v: 1,
  tenant: signingKey.kid.split("/")[0],
  batch: uuid7(), // chosen by you; to retry a request, send the same id
  requested_by: "signed.mjs",
  grant: { kind: "download", bucket: "demo", expires_in: 900 },
  total: keys.length,
  items: keys.map((key) => ({ key })), // at most 600; larger batches need chunks
};
const broker = await createClient({ url: VALETKEY_BROKER_URL }).connect();
const store = await createClient({ url: VALETKEY_RESULT_URL }).connect();
const id = randomUUID();
await broker.lPush("valetkey", taskMessage(id, await sign(message)));
const outcome = await unseal(await waitForResult(store, id));
if (outcome.status === "refused") {
  console.error(`refused: ${outcome.refusal.code}: ${outcome.refusal.message}`);
  process.exitCode = 1;
} else {
  for (const item of outcome.items) console.log(item.key, item.url ?? `refused: ${item.code}`);
}
await Promise.all([broker.close(), store.close()]);
