"""Requests download links with a signed message. Needs only Celery and a JOSE library.

python signed.py acme/a.pdf acme/b.pdf
"""

import json
import os
import random
import sys
import time
import uuid
import zlib
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import TimeoutError as NoResultYet
from joserfc import jwe, jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

# The output of `valetkey keygen`, a JWK Set: one key signs requests, the other decrypts results.
jwks = json.loads(Path(os.environ["VALETKEY_KEY_FILE"]).read_text(encoding="utf-8"))
by_use = {key["use"]: OKPKey.import_key(key) for key in jwks["keys"]}
signing_key, decryption_key = by_use["sig"], by_use["enc"]

MAX_ITEMS = 600  # more need several messages
MAX_INTERACTIVE_ITEMS = 20  # batches with more go to the queue for bulk
INTERVALS = (3, 6, 12, 24)  # seconds until the message is sent again
MAX_CONTENT = 16 * 1024**2  # bytes of a reply
ALGORITHMS = jwe.JWERegistry(algorithms=["ECDH-ES", "A256GCM"])
ALGORITHMS.max_ciphertext_length = MAX_CONTENT * 4 // 3 + 4  # joserfc's own limit is 64 KiB


def uuid7() -> str:
    """Return a UUIDv7. From Python 3.14 on, use uuid.uuid7()."""
    milliseconds = f"{time.time_ns() // 10**6:012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7{str(uuid.uuid4())[15:]}"


def sign(message: dict[str, Any]) -> str:
    """Return a compact JWS of a message and the time of signing; kid is TENANT/NAME."""
    header = {"alg": "Ed25519", "kid": signing_key.kid}
    content = json.dumps(message | {"iat": int(time.time())})
    return jws.serialize_compact(header, content, signing_key, algorithms=["Ed25519"])


def unseal(result: str | dict[str, Any]) -> Any:
    """Decrypt a compact JWE and parse its JSON."""
    if isinstance(result, dict):
        # The service sends plain JSON only to refuse an unauthenticated message. Read nothing else
        # from it: anyone with write access to the result store could have written it.
        return {"status": "refused", "refusal": result["refusal"]}
    decrypted = jwe.decrypt_compact(result, decryption_key, registry=ALGORITHMS)
    content = decrypted.plaintext or b""
    if decrypted.headers().get("cty") == "gzip":
        # Anyone can seal to a public key, so what is decompressed must be limited.
        gzip = zlib.decompressobj(wbits=31)
        content = gzip.decompress(content, MAX_CONTENT)
        if not gzip.eof:
            raise ValueError("the content is incomplete, or over the limit")
    return json.loads(content)


keys = sys.argv[1:]
if len(keys) > MAX_ITEMS:
    sys.exit(f"signed.py sends one message of up to {MAX_ITEMS} keys; signed.mjs sends several")
message = {
    "v": 1,
    "tenant": str(signing_key.kid).partition("/")[0],
    "batch": os.environ.get("BATCH_ID") or uuid7(),  # to repeat a request, use its id again
    "requested_by": "signed.py",
    "grant": {"kind": "download", "bucket": "demo", "expires_in": 900},
    "total": len(keys),
    "items": [{"key": key} for key in keys],
}
again = f"to repeat the request, set BATCH_ID={message['batch']}"
app = Celery(broker=os.environ["VALETKEY_BROKER_URL"], backend=os.environ["VALETKEY_RESULT_URL"])
task = app.AsyncResult(f"{message['batch']}.0")  # 0 is the number of the message in the batch
# A queue can lose a message, so it is sent again: the service charges a batch once.
for number, interval in enumerate(INTERVALS):
    app.send_task(
        "valetkey.issue",
        args=[sign(message)],
        task_id=task.id,
        queue="valetkey" if len(keys) <= MAX_INTERACTIVE_ITEMS else "valetkey.bulk",
        declare=[],  # a producer's user of Redis need not declare queues, because workers do
        delivery_info={"redelivered": number > 0},  # a copy is dropped if a reply is stored
    )
    try:
        result = task.get(timeout=interval * (1 + random.random() / 2), propagate=False)
        break
    except NoResultYet:
        continue
else:
    sys.exit(f"no result: is a worker running? {again}")
if task.failed():
    task.forget()
    sys.exit(f"the service failed: its log has the reason; {again}")
try:
    outcome = unseal(result)
    pairs = list(zip(keys, outcome["items"], strict=True)) if outcome["status"] == "issued" else []
    is_reply = all(item["key"] == key for key, item in pairs if "url" in item)
except (JoseError, LookupError, TypeError, ValueError, zlib.error):
    is_reply = False
if not is_reply:
    task.forget()
    sys.exit(f"the stored result is no reply to this request; {again}")
if outcome["status"] == "refused":
    sys.exit(f"refused: {outcome['refusal']['code']}: {outcome['refusal']['message']}")
for item in outcome["items"]:
    print(item["key"], item["url"] if "url" in item else f"refused: {item['code']}")
