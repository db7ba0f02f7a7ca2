package zerotrust

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// outcome is whether a caller was served, and how that is known.
type outcome struct {
	served bool
	text   string
}

// A knock says the first words of its protocol and judges the answer. It fails if there
// is none.
type knock func(ctx context.Context, conn net.Conn) (outcome, error)

// ask connects over TLS, or in plain text if cfg is nil, and knocks. A refusal is an
// alert of TLS or an answer that says so; a connection that just ends, or never comes to
// be, is an error: it tells nothing of the server.
func ask(ctx context.Context, addr string, cfg *tls.Config, try knock) (outcome, error) {
	conn, err := connect(ctx, addr)
	if err != nil {
		return outcome{}, err
	}
	defer conn.Close()
	if cfg != nil {
		secured := tls.Client(conn, cfg)
		if err := secured.HandshakeContext(ctx); err != nil {
			return refusal(err)
		}
		conn = secured
	}
	// In TLS 1.3 the server judges the client's certificate after the client's
	// handshake is done: its alert comes in place of the answer.
	got, err := try(ctx, conn)
	if err != nil {
		return refusal(err)
	}
	return got, nil
}

func connect(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(10 * time.Second))
}

func refusal(err error) (outcome, error) {
	if alert, ok := errors.AsType[tls.AlertError](err); ok {
		return outcome{false, "refused: " + alert.Error()}, nil
	}
	var remote *net.OpError
	if errors.As(err, &remote) && remote.Op == "remote error" { // an alert of the server's
		return outcome{false, "refused: " + remote.Error()}, nil
	}
	return outcome{}, err
}

// knockHTTP asks for a page. The server of HTTPS answers plain text with status 400.
func knockHTTP(path string) knock {
	return func(_ context.Context, conn net.Conn) (outcome, error) {
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", path); err != nil {
			return outcome{}, err
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return outcome{}, err
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusBadRequest {
			return outcome{false, "refused: " + resp.Status}, nil
		}
		return outcome{true, "served: " + resp.Status}, nil
	}
}

// knockPostgres starts a session, and is served once PostgreSQL asks for the password.
func knockPostgres(user string) knock {
	return func(ctx context.Context, conn net.Conn) (outcome, error) {
		code, err := startSession(ctx, conn, nil, user)
		if err != nil {
			return outcome{}, err
		}
		if code != wrongPassword {
			return outcome{false, "refused with code " + code}, nil
		}
		return outcome{true, "served: PostgreSQL asks for the password of " + user}, nil
	}
}

// Codes of PostgreSQL: https://www.postgresql.org/docs/15/errcodes-appendix.html
const (
	notAuthorized = "28000" // whoever it is, and whatever the password
	wrongPassword = "28P01"
)

// startSession starts a session of PostgreSQL's without a password and returns the code
// of the error that it ends with. With cfg it asks the server for TLS first.
func startSession(ctx context.Context, conn net.Conn, cfg *tls.Config, user string) (string, error) {
	// What the environment says of other servers is not meant: all that counts is set.
	config, err := pgconn.ParseConfig("host=server port=5432 sslmode=disable user=" + user + " dbname=" + user)
	if err != nil {
		return "", err
	}
	config.Password, config.TLSConfig = "", cfg
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	session, err := pgconn.ConnectConfig(ctx, config)
	if err == nil {
		return "", errors.Join(fmt.Errorf("PostgreSQL took %s without a password", user), session.Close(ctx))
	}
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		return answer.Code, nil
	}
	// The reason alone: what the library says before it is of a server that is made up.
	return "", fmt.Errorf("starting a session of PostgreSQL: %w", cmp.Or(errors.Unwrap(err), err))
}

// ended says that the other side closed the connection without a word.
func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
