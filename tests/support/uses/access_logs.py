"""Lines of access logs."""

import json

GRANT_ID = "0199a000-0000-7000-8000-000000000001.0"
QUERY = "x-grant-id={}&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0123"


def aws_line(
    grant_id: str = GRANT_ID, key: str = "acme/a.pdf", path: str | None = None, **changes: str
) -> bytes:
    """Return a line of AWS's server access log; changes replace its fields."""
    values = {
        "time": "24/Nov/2026:12:31:07 +0000",
        "request_id": "3E57427F3EXAMPLE",
        "operation": "REST.GET.OBJECT",
        "query": QUERY.format(grant_id),
        "status": "200",
        "sent": "1234",
        "agent": "curl/8.5",
        "auth": "QueryString",
    } | changes
    target = f"/{key if path is None else path}?{values['query']}"
    text = (
        f"79a59df900b949e5 valetkey-demo [{values['time']}] 192.0.2.3 arn:aws:iam::1:user/valetkey"
        f' {values["request_id"]} {values["operation"]} {key} "GET {target} HTTP/1.1"'
        f' {values["status"]} - {values["sent"]} 1234 41 28 "-" "{values["agent"]}" -'
        f" s9lzHYrFp76Z= SigV4 TLS_AES_128_GCM_SHA256 {values['auth']}"
        " valetkey-demo.s3.amazonaws.com TLSv1.3 - -"
    )
    return text.encode() + b"\n"


def rgw_line(grant_id: str = GRANT_ID, key: str = "acme/a.pdf") -> bytes:
    """Return a line of Ceph RGW's operations log."""
    entry = {
        "bucket": "valetkey-demo",
        "object": key,
        "time": "2026-11-24T12:31:07.000000Z",
        "time_local": "2026-11-24T13:31:07.000000+0100",
        "remote_addr": "192.0.2.3",
        "user": "valetkey",
        "operation": "get_obj",
        "uri": f"GET /valetkey-demo/{key}?{QUERY.format(grant_id)} HTTP/1.1",
        "http_status": "200",
        "error_code": "",
        "bytes_sent": 1234,
        "bytes_received": 0,
        "object_size": 1234,
        "total_time": 41,
        "user_agent": "curl/8.5",
        "referrer": "",
        "trans_id": "tx00000example",
        "authentication_type": "Local",
    }
    return json.dumps(entry).encode() + b"\n"
