"""Text inside a C string literal, for the generators."""


def c_escape(text):
    """UTF-8 bytes outside printable ASCII become octal escapes of exactly three digits, which no digit behind them can lengthen; ? is
    escaped against trigraphs."""
    out = []
    for byte in text.encode():
        char = chr(byte)
        out.append("\\" + char if char in '"\\?' else char if 32 <= byte < 127 else f"\\{byte:03o}")
    return "".join(out)
