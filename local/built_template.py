"""State in a built template what was built: ``python -m local.built_template FILE ARCHITECTURE``."""

import sys
from pathlib import Path

from samcli.yamlhelper import yaml_dump, yaml_parse


def pin_architecture(file: Path, architecture: str) -> None:
    """Make a built template accept only the architecture that its functions' libraries are for.

    `sam deploy` passes CloudFormation whatever was chosen before, by an option or in an earlier deployment.
    """
    template = yaml_parse(file.read_text())
    template["Parameters"]["Architecture"] |= {"Default": architecture, "AllowedValues": [architecture]}
    # Not a reference, because sam local invoke does not check a parameter's values.
    template["Globals"]["Function"]["Architectures"] = [architecture]
    file.write_text(yaml_dump(template))


if __name__ == "__main__":
    pin_architecture(Path(sys.argv[1]), sys.argv[2])
