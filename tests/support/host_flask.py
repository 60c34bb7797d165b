"""Flask as a host under test: see `hosts`."""

from .hosts import HostUnderTest

#: Flask-WTF answers 400 to a POST without its token.
HOST = HostUnderTest(name="flask", modules=("flask", "flask_login", "flask_wtf"), refused_without_csrf=400)
