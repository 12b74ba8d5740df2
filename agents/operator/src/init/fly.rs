//! What a `fly.toml` says of a service: its name, where it runs first, and how Fly checks it.

use serde::Deserialize;

use super::files::Recipe;

/// What goes with a service on Fly.
pub(super) const RECIPE: Recipe = Recipe {
    build: "      - uses: superfly/flyctl-actions/setup-flyctl@master\n      \
            # Builds and pushes the image; Bellwether brings it out.\n      \
            - run: flyctl deploy --build-only --push --image-label \"$RELEASE\"\n        \
            env: { FLY_API_TOKEN: \"${{ secrets.FLY_API_TOKEN }}\" }",
    env: "        env: { FLY_API_TOKEN: \"env:FLY_API_TOKEN\" }",
    lever: include_str!("templates/lever-fly.sh"),
    first: Some(("export FLY_API_TOKEN=\"$(flyctl tokens create deploy)\"", "for the rollback agent alone")),
};

/// The part of the file that is used; Fly's own tools read the rest.
#[derive(Debug, Default, Deserialize)]
pub(super) struct FlyToml {
    pub(super) app: String,
    #[serde(default)]
    pub(super) primary_region: Option<String>,
    #[serde(default)]
    http_service: HttpService,
}

#[derive(Debug, Default, Deserialize)]
struct HttpService {
    #[serde(default)]
    checks: Vec<Check>,
}

#[derive(Debug, Default, Deserialize)]
struct Check {
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    path: Option<String>,
}

impl FlyToml {
    /// Reads the file's text.
    ///
    /// # Errors
    /// Where it is not one, in words with line and column.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// Where the app answers.
    pub(super) fn url(&self) -> String {
        format!("https://{}.fly.dev", self.app)
    }

    /// Paths that Fly itself checks by `GET`, in their order.
    pub(super) fn paths(&self) -> Vec<String> {
        let is_get = |check: &&Check| check.method.as_ref().is_none_or(|method| method.eq_ignore_ascii_case("get"));
        self.http_service.checks.iter().filter(is_get).filter_map(|check| check.path.clone()).collect()
    }
}
