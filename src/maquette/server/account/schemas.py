"""The wire forms of a tenant's account. Nothing is billed here; the answers let clients go on that look first."""

from msgspec import Struct


class FreeTrial(Struct, frozen=True):
    """What is left of a free trial: none is needed."""

    training: int


class User(Struct, frozen=True):
    """The published answer about whoever calls; `credit_balance` in 0.0001 USD."""

    allow_features: list[str]
    credit_balance: int
    free_trial: FreeTrial


class Balance(Struct, frozen=True, rename="camel"):
    """The balance, as third parties' tools read it: strings, in 0.0001 USD."""

    available_balance: str
    cash_balance: str
    credit_limit: str
    outstanding_invoices: str
