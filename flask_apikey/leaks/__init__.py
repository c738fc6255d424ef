"""Optional blueprint that takes reports of leaked keys from GitHub, and ends the keys.

It speaks the protocol of GitHub's secret scanning partner program.
"""

from flask_apikey.leaks.intake import leak_intake_blueprint

__all__ = ["leak_intake_blueprint"]
