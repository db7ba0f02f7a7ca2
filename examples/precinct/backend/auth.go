package main

import (
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

const cookieName = "precinct_session"

// who is a signed-in user's request.
type who struct {
	*http.Request
	user *user
}

// signedIn lets only those through who have a session.
func (b *backend) signedIn(h func(http.ResponseWriter, who) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		cookie, err := r.Cookie(cookieName)
		if err != nil {
			return errNotSignedIn
		}
		hash, ok := sessionHash(cookie.Value)
		if !ok {
			return errNotSignedIn
		}
		u, err := b.sessionUser(r.Context(), hash)
		if err != nil {
			return err
		}
		if u == nil {
			return errNotSignedIn
		}
		return h(w, who{Request: r, user: u})
	}
}

func (b *backend) postLogin(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Username string `json:"username"`
		Password string `json:"password"`
	}
	if err := decode(w, r, &in); err != nil {
		return err
	}
	in.Username = strings.ToLower(in.Username)
	if err := check(
		field{name: "username", value: in.Username, most: 64},
		field{name: "password", value: in.Password},
	); err != nil {
		return err
	}
	u, hash, err := b.findUser(r.Context(), in.Username)
	if err != nil {
		return err
	}
	// Without a user the same work is done, so that time does not tell.
	ok, err := b.passwords.match(r.Context(), hash, in.Password)
	if err != nil {
		return err
	}
	if !ok {
		return errLogin
	}
	return b.signIn(w, r, http.StatusOK, "Login successful", *u)
}

func (b *backend) postRegister(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Username string `json:"username"`
		Email    string `json:"email"`
		Password string `json:"password"`
		FullName string `json:"full_name"`
	}
	if err := decode(w, r, &in); err != nil {
		return err
	}
	if in.FullName == "" {
		in.FullName = in.Username
	}
	in.Username = strings.ToLower(in.Username)
	if err := check(
		field{name: "username", value: in.Username, most: 32, ok: isUsername,
			rule: "has to be of at least two letters, digits, dots, hyphens or underscores"},
		field{name: "email", value: in.Email, most: 254, ok: isEmail, rule: "is not an e-mail address"},
		field{name: "password", value: in.Password, most: longest, rule: "is shorter than 8 characters",
			ok: func(s string) bool { return utf8.RuneCountInString(s) >= 8 }},
		field{name: "full_name", value: in.FullName, most: 100},
	); err != nil {
		return err
	}
	hash, err := b.passwords.hash(r.Context(), in.Password)
	if err != nil {
		return err
	}
	u, err := b.addUser(r.Context(), user{Username: in.Username, Email: in.Email, FullName: in.FullName}, hash)
	if taken, ok := errors.AsType[errTaken](err); ok {
		return &problem{status: http.StatusConflict, sentence: taken.Error()}
	}
	if err != nil {
		return err
	}
	return b.signIn(w, r, http.StatusCreated, "Registration successful", u)
}

func (b *backend) signIn(w http.ResponseWriter, r *http.Request, status int, message string, u user) error {
	value, err := b.addSession(r.Context(), u.ID)
	if err != nil {
		return err
	}
	http.SetCookie(w, cookie(value, int(sessionLife.Seconds())))
	service.JSON(w, status, map[string]any{"message": message, "user": u})
	return nil
}

// cookie is sent to the site itself alone and hidden from scripts. It is not Secure:
// the demo's site is plain HTTP on the loopback.
func cookie(value string, seconds int) *http.Cookie {
	return &http.Cookie{ //nolint:gosec // see above
		Name: cookieName, Value: value, Path: "/", MaxAge: seconds,
		HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
}

func (b *backend) postLogout(w http.ResponseWriter, r *http.Request) error {
	if c, err := r.Cookie(cookieName); err == nil {
		if hash, ok := sessionHash(c.Value); ok {
			if err := b.deleteSession(r.Context(), hash); err != nil {
				return err
			}
		}
	}
	http.SetCookie(w, cookie("", -1))
	service.JSON(w, http.StatusOK, map[string]string{"message": "Logged out"})
	return nil
}

func (b *backend) getMe(w http.ResponseWriter, r who) error {
	service.JSON(w, http.StatusOK, map[string]any{"user": r.user})
	return nil
}
