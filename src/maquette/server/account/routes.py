"""Calls about whoever calls. They are answered from the settings alone: a self-hosted server bills nobody."""

from litestar import get
from litestar.di import NamedDependency

from maquette.server.account.schemas import Balance, FreeTrial, User
from maquette.server.http_errors import ERRORS
from maquette.server.settings import Settings


@get("/user", responses=ERRORS)
async def show_user(settings: NamedDependency[Settings]) -> User:
    """Balance and features of the tenant. Nothing is billed; the balance is `MAQUETTE_CREDIT_BALANCE`, always."""
    return User(allow_features=[], credit_balance=settings.credit_balance, free_trial=FreeTrial(training=0))


@get("/user/balance", responses=ERRORS)
async def show_balance(settings: NamedDependency[Settings]) -> Balance:
    """The balance alone."""
    balance = str(settings.credit_balance)
    return Balance(available_balance=balance, cash_balance=balance, credit_limit="0", outstanding_invoices="0")
