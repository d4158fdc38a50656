"""A job for the tests of the GPU benchmarks: its arguments decide what it does."""

import sys
import time

from benchmarks.device import messages

if __name__ == "__main__":
    options = messages.arguments()
    if options["do"] == "crash":
        sys.exit("this went wrong")
    if options.get("timed"):
        messages.wait_for_turn(prepared=1)
    began = time.time()
    print("libraries print here")
    time.sleep(60 if options["do"] == "hang" else 0.2)
    messages.send("figures", {"began": began, "ended": time.time()})
