from talos.abc import Handler


async def echo() -> None: ...


handler: Handler = echo  # error: Incompatible types in assignment
