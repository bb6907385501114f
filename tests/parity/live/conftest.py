"""What has no record: these run the other library itself, in `make parity` alone."""

from tests.benchmarking.conftest import small_products as small_products
from tests.parity.recorded import MODE

collect_ignore_glob = [] if MODE else ["test_*.py"]
