package main

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:embed assets templates
var files embed.FS

// assets are the files that a browser may keep for ever: their names change with
// their content.
type assets struct {
	paths map[string]string // site.css → /assets/site.0123456789ab.css
	files map[string]asset  // by that path
}

type asset struct {
	content []byte
	kind    string
}

func loadAssets() (*assets, error) {
	a := &assets{paths: map[string]string{}, files: map[string]asset{}}
	entries, err := fs.ReadDir(files, "assets")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		content, err := files.ReadFile("assets/" + e.Name())
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(content)
		ext := path.Ext(e.Name())
		at := "/assets/" + strings.TrimSuffix(e.Name(), ext) + "." + hex.EncodeToString(sum[:6]) + ext
		a.paths[e.Name()] = at
		a.files[at] = asset{content: content, kind: mime.TypeByExtension(ext)}
	}
	return a, nil
}

// path is where an asset is; a page that asks for one that there is not must fail.
func (a *assets) path(name string) (string, error) {
	at, ok := a.paths[name]
	if !ok {
		return "", fmt.Errorf("there is no asset %q", name)
	}
	return at, nil
}

// serve answers with the asset, and says whether there is one.
func (a *assets) serve(w http.ResponseWriter, at string) bool {
	f, ok := a.files[at]
	if !ok {
		return false
	}
	w.Header().Set("Content-Type", f.kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(f.content)
	return true
}
