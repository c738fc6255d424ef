"""Let customers make and revoke keys of their own, on pages of your site."""

from flask import Flask, redirect, render_template_string, session
from flask_wtf import FlaskForm

from flask_apikey import APIKeys, current_api_key, require_api_key
from flask_apikey.pages import portal_blueprint

app = Flask(__name__)
app.secret_key = "example"  # noqa: S105  # yours comes from the environment
app.config.from_prefixed_env()
api_keys = APIKeys(app)


SIGN_IN = "<form method=post>{{ form.csrf_token }}<button>Sign in as {{ customer }}</button></form>"


# In place of your own sign-in, which checks a password.
@app.route("/sign-in/<customer>", methods=["GET", "POST"])
def sign_in(customer):
    form = FlaskForm()
    if form.validate_on_submit():
        session["customer"] = customer
        return redirect("/my-api-keys/")
    return render_template_string(SIGN_IN, form=form, customer=customer)


def signed_in_customer():
    return session.get("customer") or redirect("/sign-in/team-7")


app.register_blueprint(
    portal_blueprint(api_keys, owner=signed_in_customer, scopes=["orders:read"], max_keys=5, max_lifetime="90d")
)


@app.get("/orders")
@require_api_key(scopes=["orders:read"])
def orders():
    return {"orders of": current_api_key.owner}
