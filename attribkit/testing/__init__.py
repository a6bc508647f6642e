"""The contracts that methods, metrics and removals keep, as checks that anybody's own can be put to.

`check_method(mine)` runs them all: it gives the names of those that passed, or raises one `ContractBroken` that lists the others. In a
test suite each is a test of its own: `@pytest.mark.parametrize("check", method_checks(mine), ids=str)`, which calls `check()`.
"""

from ..errors import ContractBroken as ContractBroken
from .methods import check_method as check_method
from .methods import method_checks as method_checks
from .metrics import check_metric as check_metric
from .metrics import metric_checks as metric_checks
from .removals import check_removal as check_removal
from .removals import removal_checks as removal_checks
from .suite import Check as Check
from .suite import Passed as Passed
