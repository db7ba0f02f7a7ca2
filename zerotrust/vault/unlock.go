package vault

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/internal/kube"
)

// keyField is the Secret's only field: the unseal key in base64, as Vault takes it.
const keyField = "key"

// ErrKeyLost says that Vault is initialised and its unseal key is nowhere.
var ErrKeyLost = errors.New("the unseal key is lost")

// Unlock initialises the server if it is new, keeps the unseal key in its Secret,
// and unseals it. It waits until the server answers and again until it serves.
//
// There is one key share: all of them would lie in the same Secret.
func (c *Conn) Unlock(ctx context.Context) error {
	var status Status
	err := kube.Wait(ctx, "Vault to answer", 250*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		var err error
		status, err = c.GetStatus(ctx)
		return err == nil, "", err
	})
	if err != nil {
		return fmt.Errorf("vault: unlock: %w", err)
	}
	key, err := c.readKey(ctx)
	if err != nil {
		return err
	}
	switch {
	case !status.Initialized:
		if key, err = c.initialise(ctx, key != ""); err != nil {
			return err
		}
	case !status.Sealed:
		return c.serves(ctx)
	case key == "":
		return fmt.Errorf("vault: unlock: it is initialised, but Secret %s/%s holds no key: %w: what it held cannot be had back; delete StatefulSet %s with its volume claim and run again",
			c.cfg.Namespace, c.cfg.KeySecret(), ErrKeyLost, c.cfg.Name)
	}
	s, err := c.client.Sys().UnsealWithContext(ctx, key)
	if err != nil {
		return fmt.Errorf("vault: unseal with the key of Secret %s/%s: %w", c.cfg.Namespace, c.cfg.KeySecret(), err)
	}
	if s.Sealed {
		return fmt.Errorf("vault: unseal with the key of Secret %s/%s: it is still sealed (%d of %d shares given)", c.cfg.Namespace, c.cfg.KeySecret(), s.Progress, s.T)
	}
	return c.serves(ctx)
}

// serves waits until the server is active: right after the unsealing it is not yet.
func (c *Conn) serves(ctx context.Context) error {
	return kube.Wait(ctx, "Vault to serve", 250*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		h, err := c.client.Sys().HealthWithContext(ctx)
		if err != nil {
			return false, "", err
		}
		return h.Initialized && !h.Sealed && !h.Standby, fmt.Sprintf("initialised %t, sealed %t, standby %t", h.Initialized, h.Sealed, h.Standby), nil
	})
}

// initialise makes the unseal key and keeps it. The root token that comes with it is
// revoked at once: see root. A cancelled ctx does not come between making and keeping.
func (c *Conn) initialise(ctx context.Context, replace bool) (string, error) {
	secrets := c.kube.Clientset().CoreV1().Secrets(c.cfg.Namespace)
	keep := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: c.cfg.KeySecret(), Namespace: c.cfg.Namespace, Labels: map[string]string{"app.kubernetes.io/managed-by": "zerotrust"}},
		Type:       corev1.SecretTypeOpaque,
	}
	// The Secret is there first, empty: what cannot be kept shall not be made.
	if !replace {
		if _, err := secrets.Create(ctx, keep, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return "", fmt.Errorf("vault: make Secret %s/%s for the unseal key: %w", c.cfg.Namespace, c.cfg.KeySecret(), err)
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	made, err := c.client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return "", fmt.Errorf("vault: initialise: %w", err)
	}
	if len(made.KeysB64) != 1 {
		return "", fmt.Errorf("vault: initialise: got %d keys, not one", len(made.KeysB64))
	}
	keep.Data = map[string][]byte{keyField: []byte(made.KeysB64[0])}
	if _, err := secrets.Update(ctx, keep, metav1.UpdateOptions{}); err != nil {
		return "", fmt.Errorf("vault: keep the unseal key in Secret %s/%s: %w: %w", c.cfg.Namespace, c.cfg.KeySecret(), ErrKeyLost, err)
	}
	if _, err := c.client.Sys().UnsealWithContext(ctx, made.KeysB64[0]); err != nil {
		return "", fmt.Errorf("vault: unseal after initialising: %w", err)
	}
	if err := c.serves(ctx); err != nil {
		return "", err
	}
	first, err := c.newClient()
	if err != nil {
		return "", err
	}
	first.SetToken(made.RootToken)
	if err := (&Session{first}).Close(ctx); err != nil {
		return "", err
	}
	return made.KeysB64[0], nil
}

// readKey is the kept unseal key, "" if there is none.
func (c *Conn) readKey(ctx context.Context) (string, error) {
	secret, err := c.kube.Clientset().CoreV1().Secrets(c.cfg.Namespace).Get(ctx, c.cfg.KeySecret(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("vault: read Secret %s/%s: %w", c.cfg.Namespace, c.cfg.KeySecret(), err)
	}
	return string(secret.Data[keyField]), nil
}

// Root makes a root token out of the unseal key, for one session.
func (c *Conn) Root(ctx context.Context) (*Session, error) {
	fail := func(err error) (*Session, error) { return nil, fmt.Errorf("vault: make a root token: %w", err) }
	key, err := c.readKey(ctx)
	if err != nil {
		return fail(err)
	}
	if key == "" {
		return fail(ErrKeyLost)
	}
	// One attempt at a time: what a killed run began is ended first.
	if err := c.client.Sys().GenerateRootCancelWithContext(ctx); err != nil {
		return fail(err)
	}
	begun, err := c.client.Sys().GenerateRootInitWithContext(ctx, "", "")
	if err != nil {
		return fail(err)
	}
	done, err := c.client.Sys().GenerateRootUpdateWithContext(ctx, key, begun.Nonce)
	if err != nil {
		return fail(err)
	}
	token, err := decodeRoot(done.EncodedToken, begun.OTP)
	if err != nil {
		return fail(err)
	}
	client, err := c.newClient()
	if err != nil {
		return fail(err)
	}
	client.SetToken(token)
	return &Session{client}, nil
}

// decodeRoot undoes the one-time pad over a generated root token.
func decodeRoot(encoded, otp string) (string, error) {
	token, err := base64.RawStdEncoding.DecodeString(encoded)
	if err != nil || len(token) != len(otp) || len(token) == 0 {
		return "", errors.New("the answer is not a token under the one-time pad")
	}
	for i := range token {
		token[i] ^= otp[i]
	}
	return string(token), nil
}
