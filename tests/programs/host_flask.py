"""A portal on Flask with Flask-Login and Flask-WTF, served with a thread for each request: see `support.hosts`."""

import secrets

from flask import Flask, request
from flask_login import LoginManager, UserMixin, current_user, login_user, logout_user
from flask_wtf.csrf import CSRFProtect, generate_csrf
from phr_refresh.flask import PhrRefreshFlask
from support import portal
from werkzeug.serving import make_server


class User(UserMixin):
    """A user by name; there is nothing else to know."""

    def __init__(self, name):
        self.id = name


def patient_of(user):
    """The patient that a user is."""
    return portal.patient_of(user.id, is_logged_in=current_user.is_authenticated)


portal.prepare()
app = Flask(__name__)
app.config.update(SECRET_KEY=secrets.token_hex(), PHR_REFRESH=portal.block(patient_of))
LoginManager(app).user_loader(User)
CSRFProtect(app)
phr = PhrRefreshFlask(app)


@app.get("/csrf")
def csrf():
    """What a POST must carry."""
    return {"headers": {"X-CSRFToken": generate_csrf()}}


@app.post("/login")
def login():
    """Log in whoever says so."""
    login_user(User(request.form["user"]))
    return "", 204


@app.post("/logout")
def logout():
    """Log out."""
    logout_user()
    return "", 204


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, app, threaded=True)
    portal.listening(server.port)
    server.serve_forever()
