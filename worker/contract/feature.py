from worker.feature import Feature

FEATURE = Feature(
    name="contract",
    page="docs/contract.md",
    standalone=("contract",),
    without_settings=("contract",),
    commands={"contract": "contract.contract_command:contract"},
)
