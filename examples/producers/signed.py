"""Requests download links with a signed message. Needs only Celery and a JOSE library.

python signed.py acme/a.pdf acme/b.pdf
"""

import gzip
import json
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from celery import Celery
from joserfc import jwe, jws
from joserfc.jwk import OKPKey

# The output of `valetkey keygen`, a JWK Set: one key signs requests, the other decrypts results.
jwks = json.loads(Path(os.environ["VALETKEY_KEY_FILE"]).read_text(encoding="utf-8"))
by_use = {key["use"]: OKPKey.import_key(key) for key in jwks["keys"]}
signing_key, decryption_key = by_use["sig"], by_use["enc"]

ALGORITHMS = jwe.JWERegistry(algorithms=["ECDH-ES", "A256GCM"])
ALGORITHMS.max_ciphertext_length = 16 * 1024**2  # 1,000 links exceed joserfc's default of 64 KiB


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
    is_compressed = decrypted.headers().get("cty") == "gzip"
    return json.loads(gzip.decompress(content) if is_compressed else content)


keys = sys.argv[1:]
message = {
    "v": 1,
    "tenant": str(signing_key.kid).partition("/")[0],
    "batch": uuid7(),  # chosen by you; to retry a request, send the same id
    "requested_by": "signed.py",
    "grant": {"kind": "download", "bucket": "demo", "expires_in": 900},
    "total": len(keys),
    "items": [{"key": key} for key in keys],  # at most 600; larger batches need chunks
}
app = Celery(broker=os.environ["VALETKEY_BROKER_URL"], backend=os.environ["VALETKEY_RESULT_URL"])
# declare=[]: a producer's user of Redis need not declare queues, because workers do.
task = app.send_task("valetkey.issue", args=[sign(message)], queue="valetkey", declare=[])
# A queue can lose a message. After a timeout, send it again: the service charges a batch once.
outcome = unseal(task.get(timeout=30))
if outcome["status"] == "refused":
    sys.exit(f"refused: {outcome['refusal']['code']}: {outcome['refusal']['message']}")
for item in outcome["items"]:
    print(item["key"], item["url"] if "url" in item else f"refused: {item['code']}")
