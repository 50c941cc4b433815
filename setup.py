"""Names what the wheel holds; everything else about the package is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["mixlm", "mixlm.*"]), "mixlm.gin_files", "mixlm.gin_files.studies"],
    # The gin files stay at the top of the checkout, as T5X has them, and lie in mixlm/gin_files once installed.
    package_dir={"mixlm.gin_files": "gin", "mixlm.gin_files.studies": "studies"},
    package_data={
        "mixlm": ["py.typed"],
        "mixlm.analysis": ["page.css", "charts.js"],
        "mixlm.interop.lm_eval": ["task_files/*.yaml"],
        "mixlm.gin_files": ["**/*.gin"],
        "mixlm.gin_files.studies": ["*.gin", "*/cells.csv", "*/study.json"],
    },
)
