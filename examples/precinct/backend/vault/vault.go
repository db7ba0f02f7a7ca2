// Package vault is what the backend asks of Vault: a login by a JWT-SVID made for that
// login, database credentials that live as long as the login, and a key-value store.
package vault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// Config says which Vault, and as whom.
type Config struct {
	Address  string       // "https://vault:8200"
	HTTP     *http.Client // whose TLS verifies Vault's SPIFFE ID
	AuthPath string       // where the JWT method is mounted: "jwt"
	Role     string
	Audience string
	FetchJWT func(ctx context.Context, audience string) (string, error)
	KVMount  string // version 2
	KVPrefix string
}

// Vault is a client without a login.
type Vault struct {
	config Config
	client *api.Client
}

// New is a client; it does not connect yet.
func New(c Config) (*Vault, error) {
	// Retries are the caller's, which know how much time there is.
	client, err := api.NewClient(&api.Config{Address: c.Address, HttpClient: c.HTTP, Timeout: 10 * time.Second, DisableRedirects: true})
	if err != nil {
		return nil, fmt.Errorf("use Vault at %q: %w", c.Address, err)
	}
	client.ClearToken()
	return &Vault{config: c, client: client}, nil
}

// Check says why Vault cannot be used now: an *Error whose Reason is plain words.
func (v *Vault) Check(ctx context.Context) error {
	h, err := v.client.Sys().HealthWithContext(ctx)
	switch {
	case err != nil:
		return failed("ask for Vault's health", err)
	case !h.Initialized:
		return &Error{Op: "ask for Vault's health", Reason: Uninitialised}
	case h.Sealed:
		return &Error{Op: "ask for Vault's health", Reason: Sealed}
	}
	return nil
}

// Login is a token and what is leased under it.
type Login struct {
	client        *api.Client
	mount, prefix string
	Expires       time.Time
}

// Login fetches a new JWT-SVID and logs in with it.
func (v *Vault) Login(ctx context.Context) (*Login, error) {
	op := fmt.Sprintf("log in to Vault as %q", v.config.Role)
	jwt, err := v.config.FetchJWT(ctx, v.config.Audience)
	if err != nil {
		return nil, &Error{Op: op, Reason: NoJWT, Err: err}
	}
	start := time.Now()
	secret, err := v.client.Logical().WriteWithContext(ctx, "auth/"+v.config.AuthPath+"/login",
		map[string]any{"role": v.config.Role, "jwt": jwt})
	if err != nil {
		e := failed(op, err)
		// Vault says 400 for a role, an audience or a signature that is wrong.
		if e.status == http.StatusBadRequest || e.status == http.StatusForbidden || e.status == http.StatusUnauthorized {
			e.Reason = Refused
		}
		return nil, e
	}
	if secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "" {
		return nil, &Error{Op: op, Reason: Wrong, Err: errors.New("the answer holds no token")}
	}
	client, err := v.client.Clone()
	if err != nil {
		return nil, &Error{Op: op, Reason: Wrong, Err: err}
	}
	client.SetToken(secret.Auth.ClientToken)
	return &Login{client: client, mount: v.config.KVMount, prefix: v.config.KVPrefix,
		Expires: start.Add(time.Duration(secret.Auth.LeaseDuration) * time.Second)}, nil
}

// Credentials are of the database's user that Vault made for one login.
type Credentials struct {
	User, Password string
	Expires        time.Time
}

// String keeps the password out of whatever prints credentials.
func (c Credentials) String() string { return "credentials of " + c.User }

// Database has Vault make a user of the database that lives at most as long as the login.
func (l *Login) Database(ctx context.Context, role string) (Credentials, error) {
	op := fmt.Sprintf("get database credentials of role %q", role)
	start := time.Now()
	secret, err := l.client.Logical().ReadWithContext(ctx, "database/creds/"+role)
	if err != nil {
		e := failed(op, err)
		// Vault answered a moment ago: what it waits for is the database.
		if timeout, ok := errors.AsType[net.Error](err); e.status == http.StatusInternalServerError || ok && timeout.Timeout() {
			e.Reason = NoDatabase
		}
		return Credentials{}, e
	}
	if secret == nil {
		return Credentials{}, &Error{Op: op, Reason: Wrong, Err: errors.New("there is no such role")}
	}
	user, _ := secret.Data["username"].(string)
	password, _ := secret.Data["password"].(string)
	if user == "" || password == "" {
		return Credentials{}, &Error{Op: op, Reason: Wrong, Err: errors.New("the answer holds no credentials")}
	}
	return Credentials{User: user, Password: password,
		Expires: start.Add(time.Duration(secret.LeaseDuration) * time.Second)}, nil
}

// Revoke ends the login and, in the background at Vault, all that is leased under it.
func (l *Login) Revoke(ctx context.Context) error {
	if err := l.client.Auth().Token().RevokeSelfWithContext(ctx, ""); err != nil {
		return failed("revoke a login", err)
	}
	return nil
}

// Get reads a secret. ErrNotFound: there is none.
func (l *Login) Get(ctx context.Context, path string) (map[string]any, error) {
	secret, err := l.client.KVv2(l.mount).Get(ctx, l.prefix+"/"+path)
	if errors.Is(err, api.ErrSecretNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, failed("read a secret", err)
	}
	if secret.Data == nil { // deleted, but earlier versions are there
		return nil, ErrNotFound
	}
	return secret.Data, nil
}

// Put writes a secret.
func (l *Login) Put(ctx context.Context, path string, data map[string]any) error {
	if _, err := l.client.KVv2(l.mount).Put(ctx, l.prefix+"/"+path, data); err != nil {
		return failed("write a secret", err)
	}
	return nil
}

// Reason is why Vault could not do something, in plain words.
type Reason string

// The reasons.
const (
	Sealed        Reason = "sealed"
	Uninitialised Reason = "not initialised"
	Unreachable   Reason = "not reachable"
	Refused       Reason = "login refused"
	NoJWT         Reason = "no JWT-SVID to log in with"
	Denied        Reason = "permission denied"
	NoDatabase    Reason = "Vault could not make database credentials"
	Wrong         Reason = "unexpected answer"
)

// ErrNotFound says that there is no such secret.
var ErrNotFound = errors.New("no such secret")

// Error is what Vault could not do. It holds no secret: Vault's own words are about
// paths and permissions.
type Error struct {
	Op     string
	Reason Reason
	Err    error // nil where the reason says it all
	status int   // of Vault's answer; 0: none came
}

func (e *Error) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("%s: %s", e.Op, e.Reason)
	}
	return fmt.Sprintf("%s: %s: %v", e.Op, e.Reason, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// failed is the error of a request.
func failed(op string, err error) *Error {
	answer, ok := errors.AsType[*api.ResponseError](err)
	if !ok {
		return &Error{Op: op, Reason: Unreachable, Err: err}
	}
	e := &Error{Op: op, Reason: Wrong, status: answer.StatusCode,
		Err: fmt.Errorf("status %d: %s", answer.StatusCode, strings.Join(answer.Errors, "; "))}
	switch {
	case answer.StatusCode == http.StatusForbidden:
		e.Reason = Denied
	case slices.ContainsFunc(answer.Errors, func(s string) bool { return strings.Contains(strings.ToLower(s), "vault is sealed") }):
		e.Reason = Sealed
	case answer.StatusCode >= 502:
		e.Reason = Unreachable
	}
	return e
}
