"""Wrong uses of both command lines, with what each must say."""

from typing import NamedTuple


class WrongUse(NamedTuple):
    """A shell command that a user may type, its exit code, and words of its message.

    `$V` is the command of producers and `$W` that of operators.
    """

    command: str
    exit_code: int
    message: str


PRODUCERS = (
    WrongUse("$V dowload demo acme/a", 2, "Did you mean one of"),
    WrongUse("$V download", 2, "Missing argument"),
    WrongUse("$V download demo", 2, "key"),
    WrongUse("$V download demo ''", 1, "key_empty"),
    WrongUse("$V download demo acme/../a", 1, "key_"),
    WrongUse("$V download demo $(printf '%01100d' 0)", 1, "1,024"),
    WrongUse("$V download demo globex/a", 1, "key_outside_prefix"),
    WrongUse("$V download nosuch acme/a", 1, "bucket_not_allowed"),
    WrongUse("$V download DEMO acme/a", 2, "DEMO"),
    WrongUse("$V download s3://demo", 2, "s3://"),
    WrongUse("$V download s3:///acme/a", 2, "s3://"),
    WrongUse("$V presign acme/a", 2, "s3://"),
    WrongUse("$V download demo acme/a --expires-in 0", 2, "--expires-in"),
    WrongUse("$V download demo acme/a --expires-in -5", 2, "--expires-in"),
    WrongUse("$V download demo acme/a --expires-in ''", 2, "--expires-in"),
    WrongUse("$V download demo acme/a --expires-in 1w", 2, "unknown unit 'w'"),
    WrongUse("$V download demo acme/a --expires-in 8d", 2, "7 days"),
    WrongUse("$V download demo acme/a --expires-in 2d", 1, "expiry_too_long"),
    WrongUse("$V download demo acme/a --expires_in 1h", 2, "--expires-in"),
    WrongUse("$V download demo acme/a --min-expires-in 2h", 1, "expiry_invalid"),
    WrongUse("$V download demo acme/a --timeout 0", 2, "--timeout"),
    WrongUse("$V download demo acme/a --json --csv", 2, "--json"),
    WrongUse("$V download demo acme/a --method DELETE", 2, "--method"),
    WrongUse("$V download demo acme/a --callback nosuch", 1, "callback_unknown"),
    WrongUse("$V download demo acme/a --tenant ''", 2, "--tenant"),
    WrongUse("$V download demo acme/a --tenant nobody", 1, "signature_required"),
    WrongUse("$V download demo acme/a --dry-run --out a.txt", 2, "--dry-run"),
    WrongUse("$V download demo acme/a --out missing/a.txt", 2, "missing"),
    WrongUse("$V download demo acme/a --resume", 2, "--resume"),
    WrongUse("$V download demo acme/a > /dev/full", 5, "No space left"),
    WrongUse("$V download demo acme/a >&-", 5, "stdout"),
    WrongUse("$V download demo --from missing.txt", 2, "missing.txt"),
    WrongUse("$V download demo --from empty.txt", 2, "empty.txt"),
    WrongUse("$V download demo --from no-key.csv", 2, "key"),
    WrongUse("$V download demo --from bad-row.csv", 1, "line 3"),
    WrongUse("$V download demo --from misspelt.csv", 2, "expires_in"),
    WrongUse("$V download demo --from keys.txt --out keys.txt", 2, "file of --from"),
    WrongUse("$V download demo --from keys.txt --out finished.csv", 2, "--force"),
    WrongUse("$V download demo --from keys.txt --resume", 2, "--out"),
    WrongUse("$V download demo acme/a --from keys.txt", 2, "--from"),
    WrongUse("$V upload demo acme/a", 2, "--max-size"),
    WrongUse("$V upload demo acme/a --max-size 0", 2, "--max-size"),
    WrongUse("$V upload demo acme/a --max-size -1", 2, "--max-size"),
    WrongUse("$V upload demo acme/a --max-size 5M", 2, "unknown unit 'M'"),
    WrongUse("$V upload demo acme/a --max-size 6TiB --content-type image/png", 2, "5 GiB"),
    WrongUse("$V upload demo acme/a --max-size 1GiB --content-type image/png", 1, "500 MiB"),
    WrongUse("$V upload demo acme/a --max-size 1KiB --min-size 2KiB", 1, "min_size"),
    WrongUse("$V upload demo acme/a --max-size 1KiB --content-type ''", 2, "--content-type"),
    WrongUse("$V upload demo acme/a --max-size 1KiB --content-type 'video/*'", 1, "video/*"),
    WrongUse("$V upload demo acme/a --max-size 1KiB --content-type text/html", 1, "browsers"),
    WrongUse("$V upload demo acme/a --max-size 1KiB --meta owner", 2, "NAME=VALUE"),
    WrongUse("$V upload demo acme/a --max-size 1KiB --acl private", 1, "acl"),
    WrongUse("$V upload demo acme/a --max-size 1KiB --html --curl", 2, "--html"),
    WrongUse("$V put demo acme/a", 2, "--file"),
    WrongUse("$V put demo acme/a --file missing", 2, "missing"),
    WrongUse("$V put demo acme/a --file .", 2, "directory"),
    WrongUse("$V put demo acme/a --size 5 --checksum md5:abc", 2, "sha256"),
    WrongUse("$V multipart demo acme/a --file keys.txt --resume", 2, "resume"),
    WrongUse("$V cancel 1234", 2, "UUID"),
    WrongUse("$V cancel 01932c07-0000-7000-8000-000000000000", 1, "no message"),
    WrongUse("$V usage --tenant ACME", 2, "--tenant"),
    WrongUse("$V keygen Acme", 2, "TENANT"),
    WrongUse("$V keygen acme --out keys.txt", 2, "keys.txt"),
    WrongUse("$V init acme --bucket demo", 2, "tenants.toml"),
    WrongUse("VALETKEY_BROKER_URL=redis://127.0.0.1:1/0 $V usage", 2, "VALETKEY_TENANT"),
    WrongUse("VALETKEY_BROKER_URL=redis://127.0.0.1:1/0 $V usage --tenant acme", 3, "refused"),
    WrongUse("VALETKEY_BROKER_URL=redis://no.invalid $V usage --tenant acme", 3, "no.invalid"),
    WrongUse("VALETKEY_BROKER_URL=nonsense $V usage", 2, "VALETKEY_BROKER_URL"),
    WrongUse("VALETKEY_KEY_FILE=missing.key $V usage", 2, "missing.key"),
    WrongUse("VALETKEY_KEY_FILE=keys.txt $V usage", 2, "keys.txt"),
)

OPERATORS = (
    WrongUse("$W aply tenants.toml", 2, "apply"),
    WrongUse("$W apply missing.toml", 2, "missing.toml"),
    WrongUse("$W apply syntax.toml", 1, "not valid TOML"),
    WrongUse("$W apply unknown-field.toml", 1, "prefix"),
    WrongUse("$W apply tenants.toml < /dev/null", 1, "--yes"),
    WrongUse("$W audit list --limit 0", 2, "--limit"),
    WrongUse("$W audit list --since someday", 2, "--since"),
    WrongUse("$W audit list --decision maybe", 2, "--decision"),
    WrongUse("$W audit list --json --csv", 2, "--json"),
    WrongUse("$W quota set nobody grants hour 5", 1, "nobody"),
    WrongUse("$W quota raise acme grants hour --by 0", 2, "--by"),
    WrongUse("$W quota raise acme grants minute --by 5", 1, "minute"),
    WrongUse("$W deadletters show nosuch", 1, "nosuch"),
    WrongUse("$W workers issue@nosuch", 1, "issue@nosuch"),
    WrongUse("$W explain missing.json", 1, "missing.json"),
    WrongUse("$W explain keys.txt", 1, "token_invalid"),
    WrongUse("$W doctor --live nosuch", 1, "nosuch"),
    WrongUse("$W dev --tenants missing.toml", 2, "missing.toml"),
    WrongUse("$W dev --data $DATA", 1, "in use"),
    WrongUse("VALETKEY_DATABASE_URL=nonsense $W migrate", 2, "VALETKEY_DATABASE_URL"),
    WrongUse("VALETKEY_DATABASE_URL=mysql://h/d $W migrate", 2, "VALETKEY_DATABASE_URL"),
    WrongUse(
        "VALETKEY_DATABASE_URL=postgresql+psycopg://u:hidden@127.0.0.1:1/d $W migrate", 1, "refused"
    ),
    WrongUse("VALETKEY_CONCURRENCY=0 $W run", 2, "VALETKEY_CONCURRENCY"),
    WrongUse("VALETKEY_SWEEP_SECONDS=often $W run", 2, "VALETKEY_SWEEP_SECONDS"),
    WrongUse("VALETKEY_S3_ENDPOINT=localhost:8333 $W doctor", 2, "VALETKEY_S3_ENDPOINT"),
)
