"""A request that is refused: the HTTP status and one line on what would be right."""


class RefusalError(Exception):
    """The request cannot be answered as it stands.

    Attributes:
        status: HTTP status.
        message: What is wrong and what would be right.
        headers: Further response headers.
    """

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
