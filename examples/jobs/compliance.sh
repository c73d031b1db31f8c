#!/bin/sh
# Answers what compliance asks about links, from the audit log:
#
#     sh examples/jobs/compliance.sh KEY RECIPIENT < link.txt
#
# link.txt has a link that somebody found. The script writes evidence.csv, its manifest and
# report.html to the current folder, and replaces none of them. It ends with 1 if the log is not
# whole, or the link is not one that was issued.
set -eu
key=$1
recipient=$2

ask() {
    printf '\n== %s\n' "$1"
    shift
    python -m worker audit "$@"
}

ask "Who got a link to this object, and when?" \
    list --key "$key" --decision issued --columns time,recipient,requested_by,reason,grant
ask "What did this person get?" \
    list --recipient "$recipient" --columns time,decision,key,expires_at,grant
ask "How many links, and what became of them?" \
    count --recipient "$recipient" --by reason,decision,state
for grant in $(python -m worker audit list --recipient "$recipient" --key "$key" --json |
    sed -n 's/.*"grant": *"\([^"]*\)".*/\1/p'); do
    ask "Was it used?" show "$grant"
done
ask "The evidence, to keep" export --recipient "$recipient" --out evidence.csv
ask "The last 30 days in charts" report --out report.html
ask "Is the log whole, and the evidence what the log says?" verify --export evidence.csv
ask "Whose is the link that was found?" whose -
