"""The price list is imported once, late, off the caller's path, and never at the expense of the process."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import pytest

from actguard.money.catalog import Loader
from actguard.money.prices import PriceBook
from actguard.money.usage import Usage

WATCHDOG_S = 60


def run(program: str) -> str:
    """Runs a program in an interpreter of its own and returns what it prints; it must end well and say nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_importing_prices_does_not_import_the_list() -> None:
    out = run(
        """
        import sys
        import actguard.money.prices, actguard.money.tariff
        from actguard.money.prices import Price, PriceBook
        from actguard.money.usage import Usage
        book = PriceBook({"m": Price(input_per_mtok=1, output_per_mtok=1)})
        book.price("openai", "m", Usage(1))
        book.provider_for_url("http://127.0.0.1:8000", "openai")
        book.provider_for_url("https://api.openai.com/v1", "openai")
        print(book.loaded, [name for name in sys.modules if name.startswith("genai_prices")])
        """
    )
    assert out == "False []"


def test_a_price_asked_for_while_loading_waits_for_it() -> None:
    out = run(
        """
        import threading
        from actguard.money.prices import PriceBook
        from actguard.money.usage import Usage
        book = PriceBook()
        book.preload()
        book.preload()
        print(sum(thread.name == "actguard-prices" for thread in threading.enumerate()))
        prices = []
        def ask(): prices.append(book.price("openai", "gpt-4o", Usage(1000)))
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(book.loaded, {str(price.normalize()) for price in prices}, len(prices))
        """
    )
    assert out.splitlines() == ["1", "True {'0.0025'} 8"]


@pytest.mark.parametrize("way", ["pass", "raise SystemExit(0)", "threading.Thread(target=PriceBook().load).start()"])
def test_the_interpreter_may_exit_in_the_middle_of_a_load(way: str) -> None:
    out = run(
        f"""
        import atexit, threading
        atexit.register(lambda: print("loaded:", book.loaded))  # registered first, so it runs last
        from actguard.money.prices import PriceBook
        book = PriceBook()
        book.preload()
        print("done")
        {way}
        """
    )
    assert out.splitlines() == ["done", "loaded: True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_in_the_middle_of_a_load_leaves_both_with_prices() -> None:
    out = run(
        """
        import os, signal, warnings
        from actguard.money.prices import PriceBook
        from actguard.money.usage import Usage
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later: forking with threads
        book = PriceBook()
        book.preload()
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # a child that hangs is killed, and the parent says so
            os._exit(0 if book.price("openai", "gpt-4o", Usage(1000)) else 1)
        _, status = os.waitpid(child, 0)
        print(status, book.price("openai", "gpt-4o", Usage(1000)) is not None)
        """
    )
    assert out == "0 True"


def test_the_load_itself_may_ask_for_a_price() -> None:
    """As a finalizer does, when garbage collection runs in the middle of the import."""
    out = run(
        """
        import sys
        from actguard.money.prices import PriceBook
        from actguard.money.usage import Usage
        book = PriceBook()
        class Finder:
            asked = []
            def find_spec(self, name, path=None, target=None):
                if name == "genai_prices.data":
                    self.asked.append(book.price("openai", "gpt-4o", Usage(1000)))
        sys.meta_path.insert(0, Finder())
        book.load()
        print(Finder.asked, book.price("openai", "gpt-4o", Usage(1000)) is not None)
        """
    )
    assert out == "[None] True"


def test_a_list_that_cannot_be_imported_is_an_error_for_who_asks_and_for_nobody_else() -> None:
    out = run(
        """
        import sys, threading
        sys.modules["genai_prices"] = None
        from actguard.money.prices import PriceBook
        from actguard.money.usage import Usage
        book = PriceBook()
        book.preload()
        for thread in threading.enumerate():
            if thread.name == "actguard-prices": thread.join()
        try:
            book.price("openai", "gpt-4o", Usage(1000))
        except ImportError:
            print("refused", book.loaded)
        """
    )
    assert out == "refused False"


def test_loading_again_costs_nothing() -> None:
    loader = Loader()
    book = PriceBook(loader=loader)
    assert not book.loaded
    book.load()
    source = loader.source
    book.load()
    book.preload()
    assert book.loaded
    assert loader.source is source
    assert book.price("openai", "gpt-4o", Usage(1000)) is not None


def test_no_thread_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more_threads(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_more_threads)
    book = PriceBook(loader=Loader())
    book.preload()
    assert not book.loaded
    assert book.price("openai", "gpt-4o", Usage(1000)) is not None
