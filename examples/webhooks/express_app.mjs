// Receives webhooks with Express.
//
// npm install express standardwebhooks
// export VALETKEY_HOOK_SECRET=whsec_…
// node express_app.mjs

import express from "express";
import { Webhook } from "standardwebhooks";

// Two secrets during a rotation.
const webhooks = process.env.VALETKEY_HOOK_SECRET.split(" ").map((secret) => new Webhook(secret));
const uploads = new Map(); // your code: a table
const seen = new Set(); // your code: a table, written in the same transaction

/** Return the verified content of a webhook, or null if it is not valid. */
function unwrap(body, headers) {
  for (const webhook of webhooks) {
    try {
      return webhook.verify(body, headers) ?? null; // undefined: the body is empty
    } catch {
      // No signature with this secret, too old, or no JSON.
    }
  }
  return null;
}

/** Store what a webhook says. Ignore other types, and those of a later service. */
function store({ type, data }) {
  if (type === "upload.stored") {
    for (const { key, size } of data.uploads) {
      uploads.set(key, size);
      console.log(`${key} ${size}`);
    }
  }
}

const app = express();

// The signature covers the bytes of the body, so no parser may change them.
app.post("/hook", express.raw({ type: () => true, limit: "256kb" }), (request, response) => {
  const event = unwrap(request.body ?? Buffer.alloc(0), request.headers);
  if (event === null) {
    return response.status(400).send("the webhook is not valid");
  }
  const id = request.get("webhook-id");
  if (!seen.has(id)) {
    store(event);
    seen.add(id);
  }
  response.sendStatus(204);
});

const server = app.listen(process.env.PORT ?? 3000, "127.0.0.1", () => {
  console.log(`http://127.0.0.1:${server.address().port}/hook`);
});
