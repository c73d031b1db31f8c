from worker.feature import Feature

FEATURE = Feature(
    name="dev",
    page="docs/tour.md",
    standalone=("dev",),
    without_settings=("dev",),
    find_service="dev.data_folder:find_running_dev",
    commands={"dev": "dev.dev_command:dev"},
)
