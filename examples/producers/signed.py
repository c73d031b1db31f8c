"""Ask for links to keys, signed, with nothing of valetkey: Celery and a JOSE library do it.

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

# What `valetkey keygen` wrote, a JWK Set: one key signs what is asked, one opens what is answered.
jwks = json.loads(Path(os.environ["VALETKEY_KEY_FILE"]).read_text(encoding="utf-8"))
by_use = {key["use"]: OKPKey.import_key(key) for key in jwks["keys"]}
signing, opening = by_use["sig"], by_use["enc"]

SEALED = jwe.JWERegistry(algorithms=["ECDH-ES", "A256GCM"])
SEALED.max_ciphertext_length = 16 * 1024**2  # a thousand long links are over joserfc's 64 KiB


def uuid7() -> str:
    """Python's own from 3.14 on: uuid.uuid7()."""
    milliseconds = f"{time.time_ns() // 10**6:012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7{str(uuid.uuid4())[15:]}"


def signed(message: dict[str, Any]) -> str:
    """A compact JWS of a message and of when it is signed; kid is TENANT/NAME."""
    header = {"alg": "Ed25519", "kid": signing.kid}
    content = json.dumps(message | {"iat": int(time.time())})
    return jws.serialize_compact(header, content, signing, algorithms=["Ed25519"])


def opened(answer: str | dict[str, Any]) -> Any:
    """What a compact JWE says."""
    if isinstance(answer, dict):
        # Not sealed is only what is refused before it is known who asks: no link is taken from it.
        return {"status": "refused", "refusal": answer["refusal"]}
    sealed = jwe.decrypt_compact(answer, opening, registry=SEALED)
    content = sealed.plaintext or b""
    return json.loads(
        gzip.decompress(content) if sealed.headers().get("cty") == "gzip" else content
    )


keys = sys.argv[1:]
message = {
    "v": 1,
    "tenant": str(signing.kid).partition("/")[0],
    "batch": uuid7(),  # yours: the same id again is the same request again
    "requested_by": "signed.py",
    "grant": {"kind": "download", "bucket": "demo", "expires_in": 900},
    "total": len(keys),
    "items": [{"key": key} for key in keys],  # 600 at most: a longer batch travels in chunks
}
app = Celery(broker=os.environ["VALETKEY_BROKER_URL"], backend=os.environ["VALETKEY_RESULT_URL"])
task = app.send_task("valetkey.issue", args=[signed(message)], queue="valetkey")
# A queue may lose a message. After a timeout send it again: a batch is charged once.
outcome = opened(task.get(timeout=30))
if outcome["status"] == "refused":
    sys.exit(f"refused: {outcome['refusal']['code']}: {outcome['refusal']['message']}")
for item in outcome["items"]:
    print(item["key"], item["url"] if "url" in item else f"refused: {item['code']}")
