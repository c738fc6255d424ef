"""Sell plans: so many requests a minute, so many a month."""

from flask import Flask

from flask_apikey import APIKeys, require_api_key

app = Flask(__name__)
app.config.from_prefixed_env()
app.config["APIKEY_PLANS"] = {
    "free": {"rate": "2/minute", "quota": "100/month", "per": "owner"},
    "pro": {"rate": "20/second; 600/minute", "quota": "100000/month", "per": "owner"},
}
app.config["APIKEY_FALLBACK_PLAN"] = "free"
api_keys = APIKeys(app)

subscriptions = {"team-7": "pro"}  # in place of your customers' table


@api_keys.plan_loader
def plan_of(owner):
    return subscriptions.get(owner, "free")


@app.get("/forecast")
@require_api_key
def forecast():
    return {"tomorrow": "rain"}


# A costly view counts as five requests.
@app.get("/forecast/month")
@require_api_key(cost=5)
def month():
    return {"tomorrow": "rain", "next month": "snow"}
