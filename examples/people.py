"""Three synthetic people who log in at the example portals. Nobody's identifiers: they are made up."""

from phr_refresh import Patient

#: What the host knows its users by -> the patient that they are. `guest` has no MHV account.
PEOPLE = {
    "ada": Patient("ada", "1012345678V123456", "12345"),
    "bob": Patient("bob", "1098765432V654321", "67890"),
    "guest": Patient("guest", "1000000001V000001"),
}
