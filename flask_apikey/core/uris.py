"""URIs of storages, as they may be shown."""


def redacted_uri(uri: str) -> str:
    """A URI without its password, and without its query, which can hold others.

    Where it cannot be told what is which, all but the scheme is left out.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return f"{uri.partition(':')[0]}:***"
    address, question_mark, query = rest.partition("?")
    if "@" in query:
        return f"{scheme}://***"
    credentials, at, place = address.rpartition("@")
    user, colon, _ = credentials.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}{at}{place}{'?***' if question_mark else ''}"
