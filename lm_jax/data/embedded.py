"""The corpus that every Python carries."""


def python_reference() -> list[str]:
    """CPython's language reference, one document a topic, in the order of their names."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]
