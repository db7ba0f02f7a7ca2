// Command unsealer unseals a Vault whenever it is sealed: it stands beside it in the
// same pod, with the key in a file that Kubernetes mounts from a Secret. It never
// logs the key, and sends it to nobody but the server with the given SPIFFE ID.
//
//	unsealer -address https://127.0.0.1:8200 -spiffe-id ID -bundle FILE -key FILE
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if err := run(ctx, os.Args[1:], log); err != nil {
		log.Error("unsealer ends", "error", err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, log *slog.Logger) error {
	var u unsealer
	var id string
	f := flag.NewFlagSet("unsealer", flag.ContinueOnError)
	f.StringVar(&u.address, "address", "https://127.0.0.1:8200", "URL of the server")
	f.StringVar(&id, "spiffe-id", "", "SPIFFE ID of the server")
	f.StringVar(&u.bundle, "bundle", "", "PEM file with the trust bundle")
	f.StringVar(&u.key, "key", "", "file with the unseal key; while there is none, it waits")
	every := f.Duration("every", time.Second, "how often to look")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	if u.id, err = spiffeid.FromString(id); err != nil {
		return fmt.Errorf("-spiffe-id: %w", err)
	}
	if u.bundle == "" || u.key == "" || *every <= 0 {
		return errors.New("-bundle and -key are needed, and -every must be positive")
	}
	ticker := time.NewTicker(*every)
	defer ticker.Stop()
	var said string
	for {
		did, err := u.look(ctx)
		if err != nil && ctx.Err() == nil {
			did = err.Error()
		}
		if did != said && did != "" { // once for each change, not once a second
			log.Info(did)
		}
		said = did
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

type unsealer struct {
	address, bundle, key string
	id                   spiffeid.ID
}

// look unseals the server if it is sealed, and says what it saw or did.
func (u unsealer) look(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// Read anew each time: the authority rotates.
	bundle, err := x509bundle.Load(u.id.TrustDomain(), u.bundle)
	if err != nil {
		return "", fmt.Errorf("reading the trust bundle: %w", err)
	}
	transport := &http.Transport{TLSClientConfig: tlsconfig.TLSClientConfig(bundle, tlsconfig.AuthorizeID(u.id)), DisableKeepAlives: true}
	client := &http.Client{Transport: transport}
	status, err := call(ctx, client, http.MethodGet, u.address+"/v1/sys/seal-status", nil)
	if err != nil {
		return "", err
	}
	switch {
	case !status.Initialized:
		return "the server is not initialised yet", nil
	case !status.Sealed:
		return "the server is unsealed", nil
	}
	key, err := os.ReadFile(u.key)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(bytes.TrimSpace(key)) == 0 {
		return "the server is sealed, and there is no key yet", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the key: %w", err)
	}
	body, err := json.Marshal(map[string]string{"key": strings.TrimSpace(string(key))})
	if err != nil {
		return "", err
	}
	if status, err = call(ctx, client, http.MethodPut, u.address+"/v1/sys/unseal", body); err != nil {
		return "", err
	}
	if status.Sealed {
		return "the server took the key and is still sealed", nil
	}
	return "unsealed the server", nil
}

type sealStatus struct{ Initialized, Sealed bool }

func call(ctx context.Context, client *http.Client, method, url string, body []byte) (sealStatus, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return sealStatus{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return sealStatus{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return sealStatus{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return sealStatus{}, fmt.Errorf("%s %s: %s", method, url, resp.Status)
	}
	var s sealStatus
	if err := json.Unmarshal(data, &s); err != nil {
		return sealStatus{}, fmt.Errorf("%s %s: reading the answer: %w", method, url, err)
	}
	return s, nil
}
