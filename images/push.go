package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"
)

// PushConfig tunes Push and Unpushed. The zero value works.
type PushConfig struct {
	// Keychain finds credentials; default: none.
	Keychain authn.Keychain
	// Parallel is how many images are pushed at a time. Zero is 3.
	Parallel int
	// OnEvent receives progress.
	OnEvent func(Event)
}

func (c PushConfig) options(ctx context.Context) []remote.Option {
	opts := []remote.Option{remote.WithContext(ctx)}
	if c.Keychain != nil {
		opts = append(opts, remote.WithAuthFromKeychain(c.Keychain))
	}
	return opts
}

// Push writes each image to the registry that its Ref names, "HOST/PATH:TAG", and returns
// what it can be pulled by whatever becomes of the tag, "HOST/PATH:TAG@DIGEST", in the same
// order. Of an Index all images are pushed. An image that is there already costs one request, a layer that is there none of its
// bytes. A registry on this machine or in a private network is spoken to without TLS where
// it has none. The error is the first image's that could not be pushed.
func Push(ctx context.Context, all []NamedImage, cfg PushConfig) ([]string, error) {
	emit := oneAtATime(cfg.OnEvent)
	pinned := make([]string, len(all))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(cmp.Or(max(cfg.Parallel, 0), 3))
	for i, n := range all {
		group.Go(func() error {
			var err error
			pinned[i], err = push(groupCtx, n, cfg, emit)
			return err
		})
	}
	return pinned, group.Wait()
}

func push(ctx context.Context, n NamedImage, cfg PushConfig, emit func(Event)) (string, error) {
	tag, digest, err := target(n)
	if err != nil {
		return "", err
	}
	pinned, host, began := n.Ref+"@"+digest.String(), tag.RegistryStr(), time.Now()
	there, err := inRegistry(ctx, tag, digest, cfg)
	if err != nil {
		return "", fmt.Errorf("push %s: %w", n.Ref, err)
	}
	if there {
		emit(Event{Verb: "present", Ref: n.Ref, Node: host})
		return pinned, nil
	}
	updates := make(chan v1.Update, 16)
	told := make(chan struct{})
	go func() {
		defer close(told)
		last := began
		for u := range updates {
			if time.Since(last) > 2*time.Second {
				last = time.Now()
				emit(Event{Verb: "push", Ref: n.Ref, Node: host, Done: u.Complete, Total: u.Total})
			}
		}
	}()
	opts := append(cfg.options(ctx), remote.WithProgress(updates))
	if n.Index != nil {
		err = remote.WriteIndex(tag, n.Index, opts...)
	} else {
		err = remote.Write(tag, n.Image, opts...)
	}
	<-told // the channel has been closed
	if err != nil {
		return "", fmt.Errorf("push %s: %w%s", n.Ref, err, pushAdvice(err))
	}
	emit(Event{Verb: "pushed", Ref: n.Ref, Node: host, Elapsed: time.Since(began)})
	return pinned, nil
}

// Unpushed are the refs of those images that the registries do not have, or have another one of
// under that tag.
func Unpushed(ctx context.Context, all []NamedImage, cfg PushConfig) ([]string, error) {
	var missing []string
	for _, n := range all {
		tag, digest, err := target(n)
		if err != nil {
			return nil, err
		}
		there, err := inRegistry(ctx, tag, digest, cfg)
		if err != nil {
			return nil, fmt.Errorf("looking for %s: %w", n.Ref, err)
		}
		if !there {
			missing = append(missing, n.Ref)
		}
	}
	return missing, nil
}

func target(n NamedImage) (name.Tag, v1.Hash, error) {
	tag, err := name.NewTag(n.Ref, name.StrictValidation)
	if err != nil {
		return tag, v1.Hash{}, fmt.Errorf("push %s: want HOST/PATH:TAG: %w", n.Ref, err)
	}
	var digest v1.Hash
	switch {
	case (n.Image == nil) == (n.Index == nil):
		err = errors.New("want one of NamedImage.Image and NamedImage.Index")
	case n.Index != nil:
		digest, err = n.Index.Digest()
	default:
		digest, err = n.Image.Digest()
	}
	if err != nil {
		err = fmt.Errorf("push %s: its digest: %w", n.Ref, err)
	}
	return tag, digest, err
}

func inRegistry(ctx context.Context, tag name.Tag, want v1.Hash, cfg PushConfig) (bool, error) {
	have, err := remote.Head(tag, cfg.options(ctx)...)
	var answer *transport.Error
	switch {
	case err == nil:
		return have.Digest == want, nil
	case errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound:
		return false, nil
	}
	return false, fmt.Errorf("%w%s", err, pushAdvice(err))
}

// pushAdvice is what to do about a registry's refusal, to stand behind it.
func pushAdvice(err error) string {
	switch classify(err) {
	case refused:
		return ": give credentials that may write there (docker login, or Keychain)"
	case unreachable:
		return ": the registry cannot be reached from here"
	}
	return ""
}
